#!/usr/bin/env bash
# Installs the build into a scratch folder and builds an outside project against it:   package_test.sh SOURCE BUILD
set -euo pipefail
build_dir=$(cd "$2" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake --install "$build_dir" --prefix "$scratch/installed" >/dev/null
"$scratch/installed/bin/prepare" --help >/dev/null

mkdir "$scratch/outside"
cd "$scratch/outside"
cat >CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.22)
project(outside LANGUAGES CXX)
find_package(accrete 0.1 REQUIRED)
accrete_experiment(my_idea my_idea.cpp)
END
cat >my_idea.cpp <<'END'
#include "apps/experiment.h"
#include "engine/ops/ops.h"

using namespace accrete;

// d/dx sum(x * x) = 2 x
int main(int argc, char** argv) {
  Experiment e("my_idea", "Differentiates a square.");
  return e.run(argc, argv, [&] {
    const Tensor x = require_grad(Tensor::from(std::vector<float>{1, -2, 3}, {3}, e.device));
    Tape tape;
    backward(ops::sum(ops::mul(x, x)));
    e.result({{"gradient", grad_of(x).to_vector<float>()}});
  });
}
END
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi  # a machine may have no make
cmake -S . -B build "${generator[@]}" -DCMAKE_PREFIX_PATH="$scratch/installed" -DCMAKE_BUILD_TYPE=Release >cmake.log || { cat cmake.log; exit 1; }
cmake --build build
got=$(build/my_idea --json --quiet)
echo "$got"
[ "$got" = '{"gradient":[2.0,-4.0,6.0]}' ]
if build/my_idea --no-such-option 2>error.txt; then echo "an unknown option was accepted"; exit 1; fi
[ "$(wc -l <error.txt)" = 1 ]
