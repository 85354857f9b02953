#!/usr/bin/env bash
# Builds for the NVIDIA GPU of this machine, checks it against the CPU, measures it against PyTorch, writes a report:
#   bash tests/device.sh [all|build|ops|models|resume|sanitize|bench [NAME ...]]       (default: all)
#   build     Release, for the compute capability of the GPU; nothing is downloaded
#   ops       every op and every kernel against the CPU and double precision, recorded launches, equal bits
#   models    GPT, ViT and VOLO against the golden values of transformers and timm; generation, evaluation
#   resume    trainings: killed and resumed (alone: by every method), recorded against launch by launch, steady memory
#   sanitize  compute-sanitizer (memcheck, racecheck) on the kernels at small sizes
#   bench     apps/bench/device_bench.py, which knows the NAMEs, in turn with PyTorch (python3, or PYTHON)
# Parts build what they need first. A part that fails does not stop the others; the exit code is 1 then.
#
# Environment:
#   OUT              folder of the report (default: device-report in the build folder): report.md, results.jsonl,
#                    logs.tar.gz
#   COMMIT           what the report calls the source (default: git describe --always --dirty, or unknown without .git)
#   ACCRETE_BUILD    build folder (default: build-device)
#   ACCRETE_DEPS     prefix with header-only libraries that the system lacks (tests/device_deps.sh makes one)
#   DEVICE_SECONDS   for everything (default: 570)
#   DEVICE           emu tries this script on a machine without a GPU: emulator, tiny bench on the CPU (default: cuda)
#
# A machine that gets a copy of the tree, without .git and without a network: here, from a clean commit,
#   bash tests/device_deps.sh build-deps && git describe --always --dirty
# and there, with build-deps copied along and what git said, in two calls, the second while the build still lies there:
#   COMMIT=1a2b3c4 ACCRETE_DEPS=build-deps bash tests/device.sh
#   COMMIT=1a2b3c4 ACCRETE_DEPS=build-deps DEVICE_SECONDS=170 bash tests/device.sh bench NAME ...   (what was skipped)
#
# The seconds of `all`. The build comes first: some 250 C++ files of 10 s and 28 .cu files of 30 s on one core of ours,
# so perhaps 200 s on 16. Then the four parts that check, their programs side by side, for nothing is timed there. The
# bench has the machine for itself and gets what is left, 120 s or more.
build_seconds=300 check_seconds=150
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
  *) sed -n '2,/^build_seconds/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [ "$part" = --help ]; exit ;;
esac
names=("$@")

rm -rf "$work_dir"
mkdir -p "$work_dir/logs" "$work_dir/bench" "$report_dir"
: >"$work_dir/rows"

until=$total  # when the present phase ends
left() { echo $((until - SECONDS)); }

row() { echo "| $1 | $2 | ${3:-} |" >>"$work_dir/rows"; }  # NAME OUTCOME [SECONDS]

# check NAME SECONDS COMMAND...: runs it within its time and that of the phase, notes the outcome, and goes on.
check() {
  local name=$1 limit=$2 began=$SECONDS code=124 outcome="FAILED: no time was left" log seconds
  shift 2
  log=$work_dir/logs/${name//[^A-Za-z0-9_.-]/-}.log
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -ge 5 ]; then
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null
    code=$?
    case $code in
      0) outcome=passed ;;
      124 | 137) outcome="FAILED: not finished after $limit s" ;;
      *) outcome="FAILED: exit code $code" ;;
    esac
  fi
  seconds=$((SECONDS - began))
  echo "== $name: $outcome, $seconds s$([ $code = 0 ] || [ ! -f "$log" ] || { echo; tail -n 15 "$log"; })"
  row "$name" "$outcome" "$seconds"
  printf '{"check": "%s", "outcome": "%s", "exit_code": %d, "seconds": %d}\n' "$name" "$outcome" "$code" "$seconds" \
    >>"$report_dir/results.jsonl"
  return "$code"
}

# The same beside others, as soon as one of $places is free. Threads that wait must sleep then, and no program may see
# the plans of products that another is just timing.
side() {
  while [ "$(jobs -rp | wc -l)" -ge "$places" ]; do wait -n; done
  OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 ACCRETE_CACHE=$work_dir/plans/$1 check "$@" &
}

# phase SECONDS PART...: parts that end together; then the report is written anew, so that a run that is cut short
# leaves what it has.
phase() {
  local each
  until=$((SECONDS + $1))
  [ "$until" -le "$total" ] || until=$total
  shift
  for each in "$@"; do "$each"; done
  wait
  write_report
}

one_line() { "$@" 2>/dev/null | head -n 1; }

facts() {
  echo "| | |"
  echo "|---|---|"
  echo "| date | $date |"
  echo "| GPU | $gpu |"
  echo "| processor | $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors |"
  echo "| nvcc | $("${nvcc:-false}" --version 2>/dev/null | sed -n 's/.*release //p') |"
  echo "| compiler | $(one_line c++ --version) |"
  echo "| PyTorch | ${torch:-none} |"
  echo "| commit | $commit |"
}

write_report() {
  {
    echo "# Accrete on a GPU: $part"
    echo
    facts
    echo
    echo "| check | outcome | seconds |"
    echo "|---|---|---|"
    cat "$work_dir/rows"
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
  tar -C "$work_dir" --exclude=caches -czf "$report_dir/logs.tar.gz" logs bench 2>/dev/null
}

# ---- the machine ---------------------------------------------------------------------------------------------------
date=$(date -u +'%Y-%m-%d %H:%M UTC')
commit=${COMMIT:-$(git -C "$source_dir" describe --always --dirty 2>/dev/null || echo unknown)}
torch=$("$python" -c 'from importlib.metadata import version
for name in "torch", "timm": print(name, version(name))' 2>/dev/null | paste -sd ' ')
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
places=$((($(nproc) + 1) / 2))
[ "$places" -le 8 ] || places=8

# What the toolkit lacks of cuBLASLt and cuDNN (with NVRTC, which that needs) is taken from the packages that PyTorch
# came with: libraries by name, when the first GPU is opened.
pip_folder() {  # HEADER: of the package that holds it; empty where none does
  "$python" -c 'import glob, sys, nvidia
print(*(found for p in nvidia.__path__ for found in glob.glob(p + "/*/include/" + sys.argv[1])), sep="\n")' "$1" \
    2>/dev/null | head -n 1 | sed 's#/include/[^/]*$##'
}
has_header() { echo "#include <$1>" >"$work_dir/has.cu" && "$nvcc" -E "$work_dir/has.cu" >/dev/null 2>&1; }
find_library() {  # NAME HEADER LACK: what it means when it is nowhere
  local folder
  compgen -G "$(dirname "$(dirname "$(realpath "$nvcc")")")/lib*/lib$1.so.*" >/dev/null && return
  ldconfig -p | grep -q "lib$1.so" && return
  folder=$(pip_folder "$2")
  row "lib$1" "${folder:+from }${folder:-$3}"
  [ -z "$folder" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder/lib
}
find_libraries() {
  local folder lack="nowhere: attention is ours alone"
  if ! has_header cublasLt.h; then  # the last folder that is searched, so that every other header stays the toolkit's
    folder=$(pip_folder cublasLt.h)
    row cublasLt.h "from ${folder:-nowhere: FAILED}"
    [ -z "$folder" ] || options+=("-DCMAKE_CXX_FLAGS=-idirafter $folder/include")
  fi
  if ! has_header cudnn_graph.h; then
    folder=$(pip_folder cudnn_graph.h)
    row cudnn_graph.h "${folder:+from }${folder:-$lack}"
    [ -z "$folder" ] || options+=("-DACCRETE_CUDNN_INCLUDE=$folder/include")
  fi
  find_library cublasLt cublasLt.h "nowhere: FAILED"
  find_library cudnn cudnn_graph.h "$lack"
  find_library nvrtc nvrtc.h "$lack"
}

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
  # A GPU that serves one process at a time has its checks one by one.
  [ "$(nvidia-smi --query-gpu=compute_mode --format=csv,noheader -i 0)" = Default ] || places=1
  [ "$capability" = 9.0 ] && architectures=90a-real || architectures=native
  options=(-DACCRETE_EMULATOR=OFF -DACCRETE_CUDA=ON -DACCRETE_CUDA_ARCHITECTURES="$architectures"
    -DCMAKE_CUDA_COMPILER="$nvcc")
  find_libraries
  bench_options=(--device cuda)
  export ACCRETE_REQUIRE_GPU=1
else
  gpu="none ($device)"
  options=(-DACCRETE_CUDA=OFF)
  bench_options=(--device cpu --tiny --steps 3 --rounds 1)
  build_seconds=$total check_seconds=$total  # such a machine takes its time; only the script is tried
fi
[ -z "${ACCRETE_DEPS:-}" ] || options+=(-DCMAKE_PREFIX_PATH="$(realpath "$ACCRETE_DEPS")")
export ACCRETE_TEST_DEVICE=$device
printf '{"date": "%s", "gpu": "%s", "pytorch": "%s", "commit": "%s"}\n' "$date" "$gpu" "${torch:-none}" "$commit" \
  >"$report_dir/results.jsonl"

# ---- parts ---------------------------------------------------------------------------------------------------------
kernel_tests=(kernels_emu_test token_kernels_test attention_kernels_test attention_choice_test optimizer_kernels_test
  gemm_epilogue_test queued_test grid_kernels_test conv_test outlook_test image_ops_test subspace_kernels_test
  device_basis_test)
model_tests=(gpt_golden_test vit_golden_test vit_test volo_golden_test volo_forward_test generate_test
  evaluate_test)
train_tests=(resume_test queued_train_test vision_methods_test)
method_tests=(vcycle_test incubation_train_test autoprog_train_test twa_train_test)
case "$part" in
  build | all) targets=(bench op_table_test "${kernel_tests[@]}" "${model_tests[@]}" "${train_tests[@]}") ;;
  ops) targets=(op_table_test "${kernel_tests[@]}") ;;
  models) targets=("${model_tests[@]}") ;;
  resume) targets=("${train_tests[@]}" "${method_tests[@]}") ;;
  sanitize) targets=("${kernel_tests[@]}") ;;
  bench) targets=(bench) ;;
esac

# Whether everything is there, made from these very sources. A tree that is copied again may have new times, for which
# CMake would build it all anew.
sources() {
  (cd "$source_dir" && find . -path './build*' -prune -o \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o \
    -name '*.cmake' -o -name CMakeLists.txt \) -print0 | sort -z | xargs -0 sha1sum) | sha1sum
  echo "${options[@]}"
}
is_built() {
  local target
  for target in "${targets[@]}"; do
    [ -x "$build_dir/tests/$target" ] || [ -x "$build_dir/apps/$target" ] || return 1
  done
  sources | cmp -s - "$build_dir/sources"
}

ready=  # whether there is anything to run
build() {
  local generator=() go_on=(-k)
  if is_built; then
    ready=yes
    row build "was there"
    return
  fi
  if [ ! -f "$build_dir/CMakeCache.txt" ] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  rm -f "$build_dir/sources"
  check configure 60 cmake -S "$source_dir" -B "$build_dir" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release \
    -DACCRETE_FETCH=OFF -DACCRETE_WERROR=OFF "${options[@]}" || return
  if [ "$device" = cuda ] && ! grep -q 'accrete .*cuda=ON' "$work_dir/logs/configure.log"; then
    row configure "FAILED: the build has no CUDA"
    return
  fi
  ready=yes  # one file that does not compile must not hide what the others do
  [ ! -f "$build_dir/build.ninja" ] || go_on=(-k 0)
  check build "$total" cmake --build "$build_dir" --parallel "$(nproc)" --target "${targets[@]}" -- "${go_on[@]}" &&
    sources >"$build_dir/sources"
  bash "$source_dir/tests/spills.sh" "$work_dir/logs/build.log" >"$work_dir/spills.txt" 2>&1
}

test_program() {  # NAME SECONDS ARGUMENT...
  local name=$1 limit=$2
  shift 2
  side "$name" "$limit" "$build_dir/tests/$name" "$@"
}

ops() {
  local name
  test_program op_table_test 120 -tc='*GPU*,*recorded*'
  for name in "${kernel_tests[@]}"; do test_program "$name" 60; done
}

models() {
  local name
  for name in "${model_tests[@]}"; do
    case $name in
      vit_test) test_program vit_test 60 -tc='values that the host*' ;;
      evaluate_test) test_program evaluate_test 60 -tc='*by hand' ;;  # --device is auto
      *) test_program "$name" 60 ;;
    esac
  done
}

# Each starts 15 to 25 programs, and each program the GPU. Alone: every method killed again and again.
resume() {
  test_program queued_train_test 150
  test_program resume_test 150 -tc='kill*bf16*,settings*'
  test_program vision_methods_test 150 -tc='loader*,a schedule*'
  [ "$part" = resume ] || return 0
  local name
  for name in "${method_tests[@]}"; do test_program "$name" 300 -tc='*kill*'; done
  side vision-methods 300 "$build_dir/tests/vision_methods_test" -tc='every*'
  side vision-methods-killed 500 "$build_dir/tests/vision_methods_test" -tc='kill*'
}

sanitize() {
  local tool=compute-sanitizer
  if ! command -v $tool >/dev/null; then
    tool=$(dirname "${nvcc:-/none/none}")/compute-sanitizer
    if [ ! -x "$tool" ]; then
      [ "$device" != cuda ] || row sanitize "FAILED: compute-sanitizer is missing"
      return 0
    fi
  fi
  local memcheck=("$tool" --tool memcheck --error-exitcode 9) racecheck=("$tool" --tool racecheck --error-exitcode 9)
  side memcheck-attention 90 "${memcheck[@]}" "$build_dir/tests/attention_kernels_test" -tc='attention against*'
  side racecheck-attention 90 "${racecheck[@]}" "$build_dir/tests/attention_kernels_test" -tc='attention against*'
  side memcheck-kernels 90 "${memcheck[@]}" "$build_dir/tests/kernels_emu_test" -tc='layernorm*,cross*,embedding*,sums*'
  side racecheck-kernels 90 "${racecheck[@]}" "$build_dir/tests/kernels_emu_test" -tc='layernorm*,softmax*,sums*'
  side memcheck-tokens 90 "${memcheck[@]}" "$build_dir/tests/token_kernels_test"
  side racecheck-tokens 90 "${racecheck[@]}" "$build_dir/tests/token_kernels_test" -tc='sequences*,copies*,residual*'
  side memcheck-grids 90 "${memcheck[@]}" "$build_dir/tests/grid_kernels_test"
  side racecheck-grids 90 "${racecheck[@]}" "$build_dir/tests/grid_kernels_test" -tc='outlook*,batch*'
  side memcheck-subspace 90 "${memcheck[@]}" "$build_dir/tests/subspace_kernels_test"
  side racecheck-subspace 90 "${racecheck[@]}" "$build_dir/tests/subspace_kernels_test" -tc='P*'
  side memcheck-queued 90 "${memcheck[@]}" "$build_dir/tests/queued_test" -tce='*ends at once*'
}

bench() {
  local skipped
  if [ -z "$torch" ]; then
    row bench "FAILED: $python has no PyTorch"
    return
  fi
  check bench "$total" "$python" "$source_dir/apps/bench/device_bench.py" "${bench_options[@]}" --build "$build_dir" \
    --out "$work_dir/bench" --limit $(($(left) - 10)) --python "$python" "${names[@]}"
  skipped=$(sed -n 's/^Skipped (time): //p' "$work_dir/bench/bench.md" 2>/dev/null)
  [ -z "$skipped" ] || row "... skipped (time)" "$skipped"
  [ ! -f "$work_dir/bench/bench.jsonl" ] || cat "$work_dir/bench/bench.jsonl" >>"$report_dir/results.jsonl"
}

if [ "$part" = all ]; then
  phase $build_seconds build
  [ -z "$ready" ] || phase $check_seconds resume sanitize ops models
  [ -z "$ready" ] || phase "$total" bench
else
  phase "$total" build
  [ -z "$ready" ] || [ "$part" = build ] || phase "$total" "$part"
fi
failed=$(grep -c FAILED "$work_dir/rows")
[ ! -f "$work_dir/bench/bench.md" ] || cat "$work_dir/bench/bench.md"
echo "==== $part on $gpu, $SECONDS s; report in $report_dir"
tr -d '|' <"$work_dir/rows"
[ "$failed" -eq 0 ] && echo "all passed" || echo "$failed FAILED"
[ "$failed" -eq 0 ]
