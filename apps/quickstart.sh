#!/usr/bin/env bash
# From a bare machine to a trained language model: installs what is missing, builds, trains a small GPT on this
# repository's own text twice, plainly and by the multi-level V-cycle (together at most 4 minutes on two cores), compares
# what they cost, and lets the model speak.
#   bash apps/quickstart.sh [key=value ...]      settings of the recipe, e.g. duration=100st
# ACCRETE_BUILD names another build folder than build/; QUICKSTART_OUT another result folder than runs/quickstart.
set -euo pipefail
source_dir=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_dir=$(realpath -m "${ACCRETE_BUILD:-$source_dir/build}")
out=$(realpath -m "${QUICKSTART_OUT:-$source_dir/runs/quickstart}")
. "$source_dir/apps/setup.sh"
step() { printf '\n== %s\n' "$*"; }

if [ -e "$out" ]; then  # an earlier result is kept
  number=2
  while [ -e "$out-$number" ]; do number=$((number + 1)); done
  out=$out-$number
fi

step "1/6  Packages"
install_packages "${build_packages[@]}" || echo "not everything could be installed; going on with what is there"

step "2/6  Build (the first time takes some minutes)"
configure "$build_dir"
build "$build_dir" prepare train_gpt compare generate
out=${out#"$source_dir"/} programs=${build_dir#"$source_dir"/}/apps  # short names: we go to the top of the repository

step "3/6  Data: this repository's own sources and documents"
cd "$source_dir"
mkdir -p "$out"
{ git ls-files 2>/dev/null || find . -path ./.git -prune -o -path './build*' -prune -o -path ./runs -prune -o -type f -print; } |
  grep -E '\.(cpp|cu|h|md|sh|py|cmake|txt)$' | sort | while read -r file; do
    printf '// %s\n' "${file#./}"
    cat "$file"
  done >"$out/text.txt"
"$programs/prepare" text --in "$out/text.txt" --tokenizer train-bpe:2048 --out "$out/data"

step "4/6  Training, plainly and by the V-cycle: coalesce the model, train the small one, grow it back, finish"
"$programs/train_gpt" --recipe apps/recipes/quickstart.json data.path="$out/data" "$@" --hours 0.033 --out "$out/plain"
"$programs/train_gpt" --recipe apps/recipes/quickstart-vcycle.json data.path="$out/data" "$@" --hours 0.033 --out "$out/vcycle"

step "5/6  What each has cost"
"$programs/compare" "$out/plain" "$out/vcycle" --out "$out/report.html" --title "Plain training and the V-cycle"

step "6/6  What it writes when asked to continue a line"
"$programs/generate" "$out/vcycle" --prompt '// The gradient of' --tokens 120 --temperature 0.7 --seed 1

cat <<END

Done. What to look at next:
  $out/report.html             both trainings side by side, in a browser
  $out/vcycle/model            the model as a Hugging Face folder
  $programs/generate $out/vcycle --prompt 'Tensor ' --tokens 200
  apps/recipes/quickstart-vcycle.json     what was trained, and why so; change a value and train again
  training/trainers/vcycle.md     the method, and when it pays
  README.md                        the tour: five files that show how it works
END
