// Every step of every ladder under the emulator, in three orders of warps, against double precision; what a ladder says
// about itself holds together.
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "kernels/ladder/harness.h"

using namespace accrete::kernels;

namespace {

// Ragged sizes, sizes that fit tiles and wide accesses exactly, and single elements.
std::vector<LadderSizes> sizes_of(const std::string& name) {
  if (name == "layernorm") return {{{37, 203, 0}}, {{9, 256, 0}}, {{3, 1000, 0}}, {{1, 1, 0}}};
  if (name == "cross_entropy") return {{{11, 1037, 0}}, {{3, 2064, 0}}, {{2, 7, 0}}, {{1, 1, 0}}};
  if (name == "matmul") return {{{67, 75, 41}}, {{129, 3, 9}}, {{64, 136, 48}}, {{1, 1, 1}}};
  if (name == "attention") return {{{2, 77, 40}}, {{1, 130, 64}}, {{3, 33, 5}}, {{1, 1, 1}}};
  return {{{5, 1003, 0}}, {{3, 2048, 0}}, {{1, 1, 0}}};
}

std::string sizes_text(const LadderSizes& s) {
  return std::to_string(s[0]) + " x " + std::to_string(s[1]) + " x " + std::to_string(s[2]);
}

}  // namespace

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("every step is right, in every order, and writes nothing else") {
  for (const Ladder& l : ladders()) {
    for (int step = 1; step <= static_cast<int>(l.steps.size()); ++step) {
      for (const LadderSizes& sizes : sizes_of(l.name)) {
        for (const WarpOrder order : {WarpOrder::forward, WarpOrder::reverse, WarpOrder::shuffled}) {
          const Emu emu{.order = order, .shuffle_seed = 7};
          const LadderCheck check = check_step(emu, l, step, sizes);
          INFO(l.name << " step " << step << ", " << sizes_text(sizes) << ", array " << check.array);
          CHECK(check.error <= l.steps[static_cast<size_t>(step - 1)].tolerance);
          CHECK(check.intact);
        }
      }
    }
  }
}

TEST_CASE("empty problems are nothing to do") {
  for (const Ladder& l : ladders())
    for (int step = 1; step <= static_cast<int>(l.steps.size()); ++step)
      CHECK(check_step(Emu{}, l, step, {{0, 5, 3}}).intact);
}

TEST_CASE("sizes that a step cannot hold are refused") {
  CHECK_THROWS_WITH(check_step(Emu{}, *find_ladder("layernorm"), 3, {{2, 1025, 0}}),
                    "[ladder] steps 3 to 5 of layernorm hold up to 1024 columns");
  CHECK_THROWS_WITH(check_step(Emu{}, *find_ladder("attention"), 2, {{1, 2, 65}}),
                    "[ladder] attention takes heads of up to 64");
}

TEST_CASE("the check sees a wrong result, a missing one and a write beyond the end") {
  const Ladder& l = *find_ladder("adamw");
  Ladder wrong = l;
  wrong.reference = [](const LadderSizes& sizes, std::vector<std::vector<double>>& values) {
    reference_adamw(sizes, values);
    values[1][3] += 0.01;
  };
  const LadderCheck check = check_step(Emu{}, wrong, 2, {{1, 10, 0}});
  CHECK(check.error > 1e-3);
  CHECK(check.array == std::string("m"));

  Ladder longer = l;  // says that there is one element more than the kernel is told to compute
  longer.arrays = [](const LadderSizes& sizes, bool half) {
    return find_ladder("adamw")->arrays({{sizes[0], sizes[1] + 1, 0}}, half);
  };
  CHECK(check_step(Emu{}, longer, 3, {{1, 10, 0}}).error == INFINITY);  // NaN is left in the copy
  Ladder shorter = l;
  shorter.arrays = [](const LadderSizes& sizes, bool half) {
    return find_ladder("adamw")->arrays({{sizes[0], sizes[1] - 1, 0}}, half);
  };
  CHECK_FALSE(check_step(Emu{}, shorter, 3, {{1, 10, 0}}).intact);
}
#endif

TEST_CASE("names are different, formulas are stated, and no step asks for less than must move") {
  std::set<std::string> names;
  for (const Ladder& l : ladders()) {
    CHECK(names.insert(l.name).second);
    CHECK(find_ladder(l.name) == &l);
    CHECK(l.steps.size() >= 3);
    CHECK(l.flops(l.large) > 0);
    double before = INFINITY;
    for (const LadderStep& s : l.steps) {
      INFO(l.name << ": " << s.title);
      const double bytes = s.bytes(l.large);
      CHECK(bytes <= before);  // no step is a step back
      // bf16 halves what must move; matmul's and attention's least is for a cache that holds everything.
      CHECK(bytes >= l.least_bytes(l.large) / (s.half ? 2 : 1));
      before = bytes;
    }
  }
  CHECK(find_ladder("") == nullptr);
}
