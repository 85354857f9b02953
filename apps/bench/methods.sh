#!/usr/bin/env bash
# The four methods against plain training, and the tables of the README, in one command:
#   bash apps/bench/methods.sh DATA OUT [SEED ...]                              WikiText-2; DATA made by `prepare text`
#   RECIPE=cifar10-deit bash apps/bench/methods.sh DATA OUT [SEED ...]          pictures; DATA as data.path takes it
# Seeds 1 and 2 by default. RECIPE names the plain recipe in apps/recipes; those of the methods are RECIPE-METHOD.json.
# Runs that are finished are skipped, begun ones are continued. ACCRETE_BUILD names another build folder than build/,
# METHODS="twa vcycle" and RATES="1e-3" a part of the table, THREADS the threads of a run, OVERRIDES="key=value ..." settings of every run.
#
#   lr-*        plain training at three learning rates, first seed: the baseline's own choice
#   plain-sN    the baseline with the best of them
#   METHOD-sN   vcycle, incubation, autoprog (by schedule), autoprog-search, twa
#   cut-STEPS-sN   the decisive control: plain training cut to what the methods spent, its schedule fully decayed
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,5p' "$0" | sed 's/^# //'; exit 1; }
source_dir=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
programs=${ACCRETE_BUILD:-$source_dir/build}/apps
recipes=$source_dir/apps/recipes
data=$(realpath "$1") out=$(realpath -m "$2")
shift 2
seeds=("${@:-1}")
[ $# -gt 0 ] || seeds=(1 2)
recipe=${RECIPE:-wikitext2-7m}
program=train_gpt metric=loss order=-g title="Four methods on WikiText-2"
methods=(vcycle incubation autoprog autoprog-search twa)
rates=(1e-3 2e-3 4e-3)
if grep -q '"family": "vit"' "$recipes/$recipe.json"; then
  program=train_vit metric=top1 order=-gr title="Four methods on pictures"
  methods=(vcycle incubation autoprog twa)
  rates=(2.5e-4 5e-4 1e-3)
fi
[ -z "${METHODS+set}" ] || methods=($METHODS)
[ -z "${RATES+set}" ] || rates=($RATES)
mkdir -p "$out"

finished() { [ -f "$out/$1/metrics.jsonl" ] && tail -n 1 "$out/$1/metrics.jsonl" | grep -q '"event":"run_end"'; }
value() { tail -n 1 "$out/$1/metrics.jsonl" | grep -o "\"$2\":[^,}]*" | head -n 1 | cut -d: -f2; }

# train NAME RECIPE SEED [key=value ...]
train() {
  local name=$1 recipe=$2 seed=$3
  shift 3
  if finished "$name"; then return; fi
  local resume=""
  [ -f "$out/$name/config.json" ] && resume=--resume
  echo "== $name"
  # shellcheck disable=SC2086
  "$programs/$program" --recipe "$recipes/$recipe.json" data.path="$data" "$@" --seed "$seed" --out "$out/$name" \
    ${OVERRIDES:-} ${THREADS:+--threads $THREADS} $resume
}

for rate in "${rates[@]}"; do train "lr-$rate" "$recipe" "${seeds[0]}" optim.lr="$rate"; done
best=$(for rate in "${rates[@]}"; do echo "$(value "lr-$rate" $metric) $rate"; done | sort $order | head -n 1 | cut -d' ' -f2)
echo "== learning rate of the baseline: $best"
[ -e "$out/plain-s${seeds[0]}" ] || ln -s "lr-$best" "$out/plain-s${seeds[0]}"
for seed in "${seeds[@]:1}"; do train "plain-s$seed" "$recipe" "$seed" optim.lr="$best"; done

whole=$(value "plain-s${seeds[0]}" flops) steps=$(value "plain-s${seeds[0]}" step)
names=()
for seed in "${seeds[@]}"; do names+=("$out/plain-s$seed"); done
for method in "${methods[@]}"; do
  for seed in "${seeds[@]}"; do
    train "$method-s$seed" "$recipe-$method" "$seed" optim.lr="$best"
    names+=("$out/$method-s$seed")
  done
  # The control's length: a multiple of 1/25 of the training, so that methods of about the same cost share it.
  spent=$(value "$method-s${seeds[0]}" flops)
  cut=$(awk "BEGIN { unit = $steps / 25; print int(int($steps * $spent / $whole / unit + 0.5) * unit + 0.5) }")
  [ "$cut" -lt "$steps" ] || continue  # a method that costs as much as the baseline needs no other control
  for seed in "${seeds[@]}"; do
    train "cut-$cut-s$seed" "$recipe" "$seed" optim.lr="$best" duration="${cut}st"
    [[ " ${names[*]} " == *"/cut-$cut-s$seed "* ]] || names+=("$out/cut-$cut-s$seed")
  done
done
"$programs/compare" "${names[@]}" --baseline "$out/plain-s${seeds[0]}" --metric $metric --out "$out/report.html" \
  --title "$title"
