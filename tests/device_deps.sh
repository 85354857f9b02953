#!/usr/bin/env bash
# Copies the header-only libraries that the build needs from this machine into a folder, as a prefix for a machine that
# lacks them and cannot download:   device_deps.sh DIR
# There: ACCRETE_DEPS=DIR bash tests/device.sh, or cmake -DCMAKE_PREFIX_PATH=DIR -DACCRETE_FETCH=OFF.
set -euo pipefail
shopt -s nullglob
if [ $# -ne 1 ] || [ "$1" = --help ]; then
  sed -n '2,4p' "$0" | sed 's/^# //'
  exit 1
fi
to=$(realpath -m "$1")

# take WHAT PATH...: the first of these paths below the usual prefixes keeps its place below the new one.
take() {
  local what=$1 prefix path from
  shift
  for prefix in /usr/local /usr; do
    for path in "$@"; do
      for from in "$prefix"/$path; do
        [ -e "$from" ] || continue
        path=$(dirname "${from#"$prefix"/}")
        mkdir -p "$to/$path"
        cp -rL "$from" "$to/$path/"
        return
      done
    done
  done
  echo "device_deps: $what is missing here" >&2
  exit 1
}

# headers as #include names them, then the CMake package
for library in nlohmann:nlohmann_json CLI:CLI11 doctest:doctest; do
  package=${library#*:}
  take "headers of $package" "include/${library%:*}"
  take "CMake package of $package" "share/cmake/$package" "lib/cmake/$package" "lib/*/cmake/$package" \
    "share/$package/cmake" "share/$package"
done
# A distribution may have written its own prefix into a package file.
grep -rlZ '(_IMPORT_PREFIX "/usr' "$to" |
  xargs -0 -r sed -i -E "s#\\(_IMPORT_PREFIX \"/usr(/local)?\"\\)#(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_DIR}/../../..\")#"
du -sh "$to"
