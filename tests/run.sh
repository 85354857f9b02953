#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test that this machine can run.
#   bash tests/run.sh [unit] [sanitize] [fuzz] [format]      (default: all four)
#   unit      a Release build of everything (nvcc included, where it is installed), then ctest
#   sanitize  clang's address and undefined-behaviour sanitizers on the parsers, the tape and the parameter store
#   fuzz      libFuzzer on every reader of foreign files: the same inputs on every machine, so that a failure is the
#             change's; with FUZZ_SECONDS=600 new ones, for so long each
#   format    clang-format
# ACCRETE_BUILD names another build folder than build/; the sanitizers build beside it. Nothing else is written.
set -uo pipefail
source_dir=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_dir=$(realpath -m "${ACCRETE_BUILD:-$source_dir/build}")
sanitize_dir=$build_dir-sanitize
. "$source_dir/apps/setup.sh"

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(format unit sanitize fuzz)
for part in "${parts[@]}"; do
  case "$part" in
    unit | sanitize | fuzz | format) ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit $([ "$part" = --help ]; echo $?) ;;
  esac
done

passed=0 failed=0 skipped=0 summary=()
# outcome NAME PASSED FAILED SKIPPED: one line of the closing table.
outcome() {
  passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
  summary+=("$(printf '%-9s %3d passed, %d failed, %d skipped  %4d s' "$1" "$2" "$3" "$4" $((SECONDS - began)))")
}

# ctest's own closing line gives the numbers.
run_ctest() {  # NAME FOLDER OPTION...
  local name=$1 folder=$2 log numbers
  shift 2
  log=$(mktemp)
  ctest --test-dir "$folder" --output-on-failure -j "$(nproc)" "$@" 2>&1 | tee "$log"
  numbers=$(sed -n 's/.* \([0-9]*\) tests failed out of \([0-9]*\)$/\1 \2/p' "$log")
  rm -f "$log"
  set -- ${numbers:-1 1}
  outcome "$name" $(($2 - $1)) "$1" 0
}

# What ptxas said about registers, of this build and of those before it in the same folder.
report_spills() {
  grep -q 'ptxas info' "$build_dir/build.log" || return 0  # no nvcc here
  echo "==== registers of the CUDA kernels"
  bash "$source_dir/tests/spills.sh" "$build_dir/build.log"
}

unit() {
  if configure "$build_dir" && build "$build_dir" 2>&1 | tee -a "$build_dir/build.log"; then
    report_spills
    run_ctest unit "$build_dir"
  else
    outcome build 0 1 0
  fi
}

# One build for both: -O1, portable matrix products, no emulator (sanitizers do not follow its fibers).
configure_sanitize() {
  configure "$sanitize_dir" -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DACCRETE_FUZZ=ON \
    -DCMAKE_CXX_FLAGS_RELEASE="-O1 -gline-tables-only" -DACCRETE_ONEDNN=OFF -DACCRETE_EMULATOR=OFF -DACCRETE_CUDA=OFF
}

sanitize() {
  local tests=(safetensors_test tokenizer_test token_data_test bpe_train_test config_test autograd_test params_test
    image_decode_test image_set_test augment_ops_test augment_test mix_test image_source_test token_labels_test)
  if ! command -v clang++ >/dev/null; then
    outcome sanitize 0 0 1
  elif configure_sanitize && build "$sanitize_dir" "${tests[@]}"; then
    UBSAN_OPTIONS=print_stacktrace=1 run_ctest sanitize "$sanitize_dir" -R "^($(IFS='|'; echo "${tests[*]}"))\$"
  else
    outcome sanitize 0 1 0
  fi
}

fuzz() {
  local target name good=0 bad=0
  if ! command -v clang++ >/dev/null; then
    outcome fuzz 0 0 1
    return
  fi
  if ! { configure_sanitize && build "$sanitize_dir" fuzzers; }; then
    outcome fuzz 0 1 0
    return
  fi
  for target in "$sanitize_dir"/tests/fuzz/*_fuzz; do
    name=$(basename "$target")
    local corpora options  # what it finds goes to the first folder; the seeds are only read
    if [ -n "${FUZZ_SECONDS:-}" ]; then
      corpora=("$sanitize_dir/corpus/$name") options=(-max_total_time="$FUZZ_SECONDS")
    else
      corpora=("$sanitize_dir/corpus/fixed") options=(-seed=1 -runs=50000)
      rm -rf "${corpora[0]}"
    fi
    mkdir -p "${corpora[0]}"
    [ ! -d "$source_dir/tests/fuzz/seeds/$name" ] || corpora+=("$source_dir/tests/fuzz/seeds/$name")
    if "$target" "${options[@]}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
      -artifact_prefix="$sanitize_dir/$name-" "${corpora[@]}" >"$sanitize_dir/$name.log" 2>&1; then
      echo "$name: $(tail -n 1 "$sanitize_dir/$name.log")"
      good=$((good + 1))
    else
      tail -n 60 "$sanitize_dir/$name.log"
      echo "$name: FAILED; the input is kept as $sanitize_dir/$name-*"
      bad=$((bad + 1))
    fi
  done
  outcome fuzz $good $bad 0
}

sources() {
  cd "$source_dir" && { git ls-files '*.cpp' '*.h' '*.cu' 2>/dev/null ||
    find apps data engine kernels models tests training -name '*.cpp' -o -name '*.h' -o -name '*.cu'; }
}

# Another version of clang-format breaks some lines elsewhere, so only Debian 12's is asked.
format() {
  if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    if (cd "$source_dir" && sources | xargs clang-format --dry-run -Werror); then outcome format 1 0 0; else
      outcome format 0 1 0
    fi
  else
    outcome format 0 0 1
  fi
}

began=$SECONDS
packages=()
case " ${parts[*]} " in *" unit "*) packages+=("${build_packages[@]}" git) ;; esac
case " ${parts[*]} " in *" sanitize "* | *" fuzz "*)
  packages+=("${build_packages[@]}" clang libclang-rt-dev libomp-dev) ;;
esac
case " ${parts[*]} " in *" format "*) packages+=(clang-format git) ;; esac
install_packages "${packages[@]}" || echo "not everything could be installed; going on with what is there"

for part in "${parts[@]}"; do
  began=$SECONDS
  echo "==== $part"
  "$part"
done
echo "==== summary after $SECONDS s"
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
