#!/usr/bin/env bash
# Builds for the NVIDIA GPU of this machine, checks it against the CPU, measures it against PyTorch, writes a report:
#   bash tests/device.sh [all|build|ops|models|resume|sanitize|bench [NAME ...]]       (default: all)
#   build     Release, for the compute capability of the GPU; nothing is downloaded
#   ops       every op and every kernel against the CPU and double precision, recorded launches, equal bits
#   models    GPT, ViT and VOLO against the golden values of transformers and timm; generation
#   resume    trainings: killed and resumed (alone: by every method), recorded against launch by launch, steady memory
#   sanitize  compute-sanitizer (memcheck, racecheck) on the kernels at small sizes
#   bench     apps/bench/device_bench.py, which knows the NAMEs, in turn with PyTorch (python3, or PYTHON)
# Parts build what they need first. A part that fails does not stop the others; the exit code is 1 then.
#
# Environment:
#   OUT              folder of the report (default: device-report in the build folder): report.md, results.jsonl,
#                    logs.tar.gz
#   ACCRETE_BUILD    build folder (default: build-device)
#   ACCRETE_DEPS     prefix with header-only libraries that the system lacks (tests/device_deps.sh makes one)
#   DEVICE_SECONDS   for everything (default: 570); the bench gets what the other parts leave
#   DEVICE           emu tries this script on a machine without a GPU: emulator, tiny bench on the CPU (default: cuda)
set -uo pipefail
source_dir=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_dir=$(realpath -m "${ACCRETE_BUILD:-$source_dir/build-device}")
report_dir=$(realpath -m "${OUT:-$build_dir/device-report}")
work_dir=$build_dir/device-work
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
total=${DEVICE_SECONDS:-570}

part=${1:-all}
case "$part" in
  all | build | ops | models | resume | sanitize | bench) [ $# -eq 0 ] || shift ;;
  *) sed -n '2,18p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; [ "$part" = --help ]; exit ;;
esac
names=("$@")

left() { echo $((total - SECONDS)); }
rm -rf "$work_dir"
mkdir -p "$work_dir/logs" "$work_dir/bench" "$report_dir"
: >"$report_dir/results.jsonl"
failed=0 rows=()

# check NAME SECONDS COMMAND...: runs it within its time, notes the outcome, and goes on.
check() {
  local name=$1 limit=$2 log began=$SECONDS code outcome
  shift 2
  log=$work_dir/logs/${name//[^A-Za-z0-9_.-]/-}.log
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 5 ]; then
    code=124 outcome="not run: no time left"
  else
    echo "== $name (at most $limit s)"
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null
    code=$?
    case $code in
      0) outcome=passed ;;
      124 | 137) outcome="FAILED: not finished after $limit s" ;;
      *) outcome="FAILED: exit code $code" ;;
    esac
  fi
  if [ "$code" != 0 ]; then
    failed=$((failed + 1))
    [ ! -f "$log" ] || tail -n 15 "$log"
  fi
  echo "   $outcome, $((SECONDS - began)) s"
  rows+=("| $name | $outcome | $((SECONDS - began)) |")
  printf '{"check": "%s", "outcome": "%s", "exit_code": %d, "seconds": %d}\n' "$name" "$outcome" "$code" \
    $((SECONDS - began)) >>"$report_dir/results.jsonl"
  write_report
  return "$code"
}

one_line() { "$@" 2>/dev/null | head -n 1; }

facts() {
  echo "| | |"
  echo "|---|---|"
  echo "| date | $(date -u +'%Y-%m-%d %H:%M UTC') |"
  echo "| GPU | $gpu |"
  echo "| processor | $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors |"
  echo "| nvcc | $("${nvcc:-false}" --version 2>/dev/null | sed -n 's/.*release //p') |"
  echo "| compiler | $(one_line c++ --version) |"
  echo "| PyTorch | $torch |"
  echo "| commit | $commit |"
}

# Written again after every check, so that a run that is cut short leaves what it has.
write_report() {
  {
    echo "# Accrete on a GPU: $part"
    echo
    facts
    echo
    echo "| check | outcome | seconds |"
    echo "|---|---|---|"
    printf '%s\n' "${rows[@]}"
    echo
    if [ -f "$work_dir/bench/bench.md" ]; then
      echo "## Speed"
      echo
      cat "$work_dir/bench/bench.md"
    fi
    if [ -f "$work_dir/spills.txt" ]; then
      echo "## Registers"
      echo
      cat "$work_dir/spills.txt"
    fi
  } >"$report_dir/report.md"
  tar -C "$work_dir" -czf "$report_dir/logs.tar.gz" logs bench 2>/dev/null
}

# ---- the machine ---------------------------------------------------------------------------------------------------
commit=$(git -C "$source_dir" rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git -C "$source_dir" status --porcelain -uno 2>/dev/null)" ] || commit="$commit, with changes"
torch=$("$python" -c 'import torch; print(torch.__version__)' 2>/dev/null | tail -n 1)
torch=${torch:-none}
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ "$device" = cuda ]; then
  if ! gpu=$(nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv,noheader -i 0 2>&1); then
    echo "device.sh: nvidia-smi finds no GPU: $gpu" >&2
    exit 1
  fi
  capability=$(echo "$gpu" | cut -d, -f2 | tr -d ' ')
  gpu=$(echo "$gpu" | sed 's/, \([0-9]*\.[0-9]*\), /, compute capability \1, /; s/, \([0-9.]*\)$/, driver \1/')
  if [ -z "$nvcc" ]; then
    echo "device.sh: nvcc is missing; install the CUDA toolkit" >&2
    exit 1
  fi
  [ "$capability" = 9.0 ] && architectures=90a-real || architectures=native
  options=(-DACCRETE_EMULATOR=OFF -DACCRETE_CUDA=ON -DACCRETE_CUDA_ARCHITECTURES="$architectures"
    -DCMAKE_CUDA_COMPILER="$nvcc")
  bench_options=(--device cuda)
  export ACCRETE_REQUIRE_GPU=1
else
  gpu="none ($device)"
  options=(-DACCRETE_CUDA=OFF)
  bench_options=(--device cpu --tiny --steps 3 --rounds 1)
fi
[ -z "${ACCRETE_DEPS:-}" ] || options+=(-DCMAKE_PREFIX_PATH="$(realpath "$ACCRETE_DEPS")")
export ACCRETE_TEST_DEVICE=$device
export ACCRETE_CACHE=$work_dir/plans  # nothing from earlier runs decides which products are tested

# ---- parts ---------------------------------------------------------------------------------------------------------
kernel_tests=(kernels_emu_test token_kernels_test attention_kernels_test optimizer_kernels_test gemm_epilogue_test queued_test)
train_tests=(resume_test queued_train_test)
method_tests=(vcycle_test incubation_train_test autoprog_train_test twa_train_test)
kernel_tests+=(grid_kernels_test conv_test outlook_test image_ops_test)  # images
case "$part" in
  build | all) targets=("${kernel_tests[@]}" op_table_test gpt_golden_test vit_golden_test vit_test volo_golden_test volo_forward_test generate_test "${train_tests[@]}" bench) ;;
  ops) targets=(op_table_test "${kernel_tests[@]}") ;;
  models) targets=(gpt_golden_test vit_golden_test vit_test volo_golden_test volo_forward_test generate_test) ;;
  resume) targets=("${train_tests[@]}" "${method_tests[@]}") ;;
  sanitize) targets=("${kernel_tests[@]}") ;;
  bench) targets=(bench) ;;
esac

build() {
  local generator=()
  if [ ! -f "$build_dir/CMakeCache.txt" ] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  check configure 60 cmake -S "$source_dir" -B "$build_dir" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release \
    -DACCRETE_FETCH=OFF -DACCRETE_WERROR=OFF "${options[@]}" || return 1
  if [ "$device" = cuda ] && ! grep -q 'accrete .*cuda=ON' "$work_dir/logs/configure.log"; then
    rows+=("| configure | FAILED: the build has no CUDA | 0 |")
    failed=$((failed + 1))
    return 1
  fi
  # One file that does not compile must not hide what the others do.
  local go_on=(-k)
  [ ! -f "$build_dir/build.ninja" ] || go_on=(-k 0)
  check build 300 cmake --build "$build_dir" --parallel "$(nproc)" --target "${targets[@]}" -- "${go_on[@]}"
  bash "$source_dir/tests/spills.sh" "$work_dir/logs/build.log" >"$work_dir/spills.txt" 2>&1
  return 0
}

test_program() {  # NAME SECONDS ARGUMENT...
  local name=$1 limit=$2
  shift 2
  check "$name" "$limit" "$build_dir/tests/$name" "$@"
}

ops() {
  local name
  test_program op_table_test 90 -tc='*GPU*,*recorded*'
  for name in "${kernel_tests[@]}"; do test_program "$name" 45; done
}

models() {
  test_program gpt_golden_test 45
  test_program vit_golden_test 45
  test_program vit_test 45 -tc='values that the host*'
  test_program volo_golden_test 45
  test_program volo_forward_test 45
  test_program generate_test 45
}

resume() {
  test_program resume_test 75 -tc='kill*bf16*,settings*'
  test_program queued_train_test 75
  [ "$part" = resume ] || return 0  # minutes: every method killed again and again
  local name
  for name in "${method_tests[@]}"; do test_program "$name" 110 -tc='*kill*'; done
}

sanitize() {
  local tool=compute-sanitizer
  if ! command -v $tool >/dev/null; then
    tool=$(dirname "${nvcc:-/none/none}")/compute-sanitizer
    if [ ! -x "$tool" ]; then
      [ "$device" != cuda ] || check sanitize 10 false
      return
    fi
  fi
  local memcheck=("$tool" --tool memcheck --error-exitcode 9) racecheck=("$tool" --tool racecheck --error-exitcode 9)
  check memcheck-kernels 45 "${memcheck[@]}" "$build_dir/tests/kernels_emu_test" -tc='layernorm*,cross*,embedding*,sums*'
  check memcheck-tokens 45 "${memcheck[@]}" "$build_dir/tests/token_kernels_test"
  check memcheck-attention 45 "${memcheck[@]}" "$build_dir/tests/attention_kernels_test" -tc='attention against*'
  check memcheck-grids 45 "${memcheck[@]}" "$build_dir/tests/grid_kernels_test"
  check memcheck-queued 30 "${memcheck[@]}" "$build_dir/tests/queued_test" -tce='*ends at once*'
  check racecheck-kernels 45 "${racecheck[@]}" "$build_dir/tests/kernels_emu_test" -tc='layernorm*,softmax*,sums*'
  check racecheck-tokens 45 "${racecheck[@]}" "$build_dir/tests/token_kernels_test" -tc='sequences*,copies*,residual*'
  check racecheck-attention 45 "${racecheck[@]}" "$build_dir/tests/attention_kernels_test" -tc='attention against*'
  check racecheck-grids 45 "${racecheck[@]}" "$build_dir/tests/grid_kernels_test" -tc='outlook*,batch*'
}

bench() {
  if [ "$torch" = none ]; then
    rows+=("| bench | FAILED: $python has no PyTorch | 0 |")
    failed=$((failed + 1))
    return
  fi
  local limit=$(($(left) - 10))
  check bench $((limit + 5)) "$python" "$source_dir/apps/bench/device_bench.py" "${bench_options[@]}" \
    --build "$build_dir" --out "$work_dir/bench" --limit "$limit" --python "$python" "${names[@]}"
  [ ! -f "$work_dir/bench/bench.jsonl" ] || cat "$work_dir/bench/bench.jsonl" >>"$report_dir/results.jsonl"
}

if build; then
  case "$part" in
    build) ;;
    all) for each in ops models resume sanitize bench; do "$each"; done ;;
    *) "$part" ;;
  esac
fi
write_report
echo "==== $part on $gpu, $SECONDS s; report in $report_dir"
printf '%s\n' "${rows[@]}" | tr -d '|'
[ ! -f "$work_dir/bench/bench.md" ] || cat "$work_dir/bench/bench.md"
[ $failed -eq 0 ] && echo "all passed" || echo "$failed FAILED"
[ $failed -eq 0 ]
