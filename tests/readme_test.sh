#!/usr/bin/env bash
# Runs every command of every README.md:   readme_test.sh SOURCE BUILD
#
# A block that opens with ```bash is run as it stands, line by line, from the top of the repository; ```text and other
# blocks are illustrations. All blocks run in one scratch copy made of links, in the order of the files, so a later
# block finds what an earlier one made, and nothing is written into the repository. Trainings are cut to two steps of a
# tiny model by the rules below, and nothing is downloaded.
set -euo pipefail
source_dir=$(cd "$1" && pwd) build_dir=$(cd "$2" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
for entry in "$source_dir"/*; do
  case "${entry##*/}" in build* | runs) ;; *) ln -s "$entry" . ;; esac
done
ln -s "$build_dir" build
mkdir -p datasets/wikitext-2  # stand-ins for what a reader downloads or has
for split in train valid test; do cat "$source_dir"/kernels/*_cpu.cpp | tee "$split.txt" >"datasets/wikitext-2/$split.txt"; done

tiny='duration=2st batch.size=2 batch.micro=0 model.depth=2 model.embed_dim=32 model.num_heads=2 data.length=32 eval.batches=1'
tiny+=' schedule.warmup=0st'
rules=(
  -e "/train_gpt/ s/ --out/ $tiny --out/"               # every training
  -e "s#^(bash apps/quickstart.sh)\$#\\1 $tiny#"
  -e 's#^bash tests/run.sh\b.*#bash tests/run.sh --help#'   # that is what runs us
  -e 's#^bash data/download.sh .*#bash data/download.sh --help#'
  # CMake knows this build by the real names of its folders
  -e "s#^cmake -S \\. -B build\\b#cmake -S '$source_dir' -B '$build_dir'#; s#^cmake --build build\\b#cmake --build '$build_dir'#"
  -e "s#^(bash apps/bench/methods.sh .*)#METHODS= OVERRIDES='$tiny' \\1#"
  -e '/freeze_half/ s/$/ --steps 2 model.embed_dim=32 data.length=32/'
  -e '/modular_addition/ s/$/ --steps 20/'
  -e 's/train-bpe:[0-9]+/train-bpe:400/'
  -e 's/--tokens [0-9]+/--tokens 5/'
)
# Continued lines are joined, so that a rule sees a whole command.
commands() { awk '/^```bash$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$1" | sed -e ':a' -e '/\\$/ { N; s/\\\n *//; ta' -e '}'; }

export ACCRETE_BUILD=$build_dir QUICKSTART_OUT=$scratch/runs/quickstart CI=true
count=0
while read -r readme; do
  script=$(commands "$readme" | sed -E "${rules[@]}")
  [ -n "$script" ] || continue
  echo "---- $readme"
  lines=$(printf '%s\n' "$script" | grep -cvE '^ *(#.*)?$' || true)
  count=$((count + lines))
  printf '%s\n' "$script" >commands.sh
  bash -euxo pipefail commands.sh </dev/null || { echo "a command of $readme failed"; exit 1; }
done < <(cd "$source_dir" && { [ -e README.md ] && echo README.md; } &&
  find . -mindepth 2 -name README.md -not -path './build*' -not -path './runs/*' | sort)
echo "$count commands ran"
[ "$count" -ge 10 ] # the READMEs have not silently stopped being checked
