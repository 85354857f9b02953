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

# A few pictures: two classes of 40 pixels as .ppm, and digits in IDX files.
for split in train val; do
  for class in dark light; do
    mkdir -p "datasets/pictures/$split/$class"
    for n in 1 2 3 4; do
      { printf 'P6\n40 40\n255\n'; head -c 4800 </dev/zero | tr '\0' "$([ $class = dark ] && echo "\\04$n" || echo "\\30$n")"; } \
        >"datasets/pictures/$split/$class/$n.ppm"
    done
  done
done
mkdir -p datasets/digits
for split in train t10k; do
  { printf '\0\0\10\3\0\0\0\24\0\0\0\34\0\0\0\34'; head -c 15680 </dev/zero; } >"datasets/digits/$split-images-idx3-ubyte"
  { printf '\0\0\10\1\0\0\0\24'; printf '\0\1\2\3\4\5\6\7\10\11\0\1\2\3\4\5\6\7\10\11'; } >"datasets/digits/$split-labels-idx1-ubyte"
done

tiny='duration=2st batch.size=2 batch.micro=0 model.depth=2 model.embed_dim=32 model.num_heads=2 data.length=32 eval.batches=1'
tiny+=' schedule.warmup=0st'
tiny_vit='duration=2st batch.size=2 batch.micro=0 model.depth=2 model.embed_dim=32 model.num_heads=2 eval.batches=1 schedule.warmup=0st'
tiny_vit+=' precision=f32 data.augment.smoothing=0'
rules=(
  -e "/train_gpt/ s/ --out/ $tiny --out/"               # every training
  -e "/train_vit/ s/ --out/ $tiny_vit --out/"
  -e "s#^(bash apps/quickstart.sh)\$#\\1 $tiny#"
  -e 's#^bash tests/run.sh\b.*#bash tests/run.sh --help#'   # that is what runs us
  -e 's#^bash data/download.sh .*#bash data/download.sh --help#'
  # CMake knows this build by the real names of its folders
  -e "s#^cmake -S \\. -B build\\b#cmake -S '$source_dir' -B '$build_dir'#; s#^cmake --build build\\b#cmake --build '$build_dir'#"
  -e "s#^(bash apps/bench/methods.sh .*)#METHODS= OVERRIDES='$tiny' \\1#"
  -e "s#^RECIPE=(\S+) (bash apps/bench/methods.sh .*)#METHODS= RATES=1e-3 OVERRIDES='$tiny_vit' RECIPE=\\1 \\2#"
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
