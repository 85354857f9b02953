#!/usr/bin/env bash
# Reads what ptxas said in the logs of builds (-Xptxas=-v, which every build passes), oldest first:   spills.sh LOG ...
# Prints every kernel that spills registers to memory, with its bytes, then one line about all kernels. Exit code 1 when
# one stores or loads more than SPILL_LIMIT bytes (default: no limit).
set -euo pipefail
if [ $# -lt 1 ] || [ "$1" = --help ]; then
  sed -n '2,4p' "$0" | sed 's/^# //'
  exit 1
fi
filter="cat"
if command -v c++filt >/dev/null; then filter=c++filt; fi
cat "$@" | $filter | awk -v limit="${SPILL_LIMIT:--1}" '
  function short(name) { return length(name) > 150 ? substr(name, 1, 130) "..." substr(name, length(name) - 8) : name }
  /Compiling entry function/ {
    name = $0; target = $0
    sub(/^.*entry function ./, "", name); sub(/. for .sm_.*$/, "", name)
    sub(/^.* for .sm_/, "sm_", target); sub(/[^a-z0-9_].*$/, "", target)
    sub(/^void /, "", name); gsub(/accrete::|kernels::|on_cuda::/, "", name)
    key = name " (" target ")"
    registers[key] = 0; spills[key] = ""; worst[key] = 0
  }
  /bytes spill stores/ {
    split($0, part, ",")
    stores = part[2] + 0; loads = part[3] + 0
    spills[key] = stores + loads > 0 ? stores " bytes stored, " loads " loaded" : ""
    worst[key] = stores > loads ? stores : loads
  }
  /Used [0-9]+ registers/ {
    for (i = 1; i < NF; i++) if ($i == "Used") registers[key] = $(i + 1) + 0
  }
  END {
    for (key in registers) {
      kernels++
      if (spills[key] != "") { spilling++; print "- " short(key) ": " spills[key] | "sort" }
      if (limit >= 0 && worst[key] > limit) over++
      if (registers[key] > most) { most = registers[key]; which = key }
    }
    close("sort")
    if (!kernels) { print "no kernel was compiled in these builds"; exit 0 }
    printf "%d kernels compiled, %d spill registers; at most %d registers: %s\n", kernels, spilling, most, short(which)
    exit over > 0
  }'
