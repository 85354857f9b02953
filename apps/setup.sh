# Sourced by apps/quickstart.sh and tests/run.sh: installs what is missing (Debian, Ubuntu), configures and builds.

# What a build needs; ninja and ccache only make it faster, oneDNN, Boost, zlib and the picture formats (libjpeg-turbo,
# stb) are optional.
build_packages=(g++ cmake ninja-build ccache nlohmann-json3-dev libcli11-dev doctest-dev libdnnl-dev
  libboost-context-dev zlib1g-dev libjpeg-dev libstb-dev)

# install_packages NAME...: asks once before it uses sudo, unless CI=true or there is nobody to ask.
install_packages() {
  local name answer missing=() known=() as_root=()
  if ! command -v apt-get >/dev/null; then
    echo "No apt-get here; continuing with what is installed. Debian's names of what is needed: $*" >&2
    return 0
  fi
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "Missing packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    as_root=(sudo)
    if [ "${CI:-}" = true ] || [ ! -t 0 ]; then
      as_root=(sudo -n)
    else
      read -r -p "Install them with sudo apt-get? [Y/n] " answer
      case "$answer" in [nN]*) echo "Nothing was installed." >&2; return 1 ;; esac
    fi
  fi
  "${as_root[@]}" apt-get update -qq || echo "apt-get update failed; trying with the lists that are here" >&2
  for name in "${missing[@]}"; do  # an older release may lack one; CMake then says whether it can do without
    if apt-cache show "$name" >/dev/null 2>&1; then known+=("$name"); else echo "no package $name here" >&2; fi
  done
  [ ${#known[@]} -eq 0 ] ||
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${known[@]}" \
      >/dev/null
}

# configure FOLDER OPTION...: with Ninja where it is installed.
configure() {
  local folder=$1 generator=()
  shift
  if [ ! -f "$folder/CMakeCache.txt" ] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  cmake -S "$source_dir" -B "$folder" "${generator[@]}" "$@" >"$folder.log" 2>&1 || { cat "$folder.log" >&2; return 1; }
  grep -- '^-- accrete' "$folder.log"
  rm -f "$folder.log"
}

# build FOLDER TARGET...: all targets when none is named.
build() {
  local folder=$1 targets=()
  shift
  [ $# -eq 0 ] || targets=(--target "$@")
  cmake --build "$folder" --parallel "$(nproc)" "${targets[@]}"
}
