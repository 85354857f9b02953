// The ladders as a table: what each step changes, what it asks of memory, and how far it may be off.
#include "kernels/ladder/ladder.h"

#include <initializer_list>

namespace accrete::kernels {

namespace {

using Type = LadderArray::Type;
using Use = LadderArray::Use;

constexpr double kBf16 = 0x1p-8;  // half a step of bf16 is at most 2^-9 of the value; the rest is for sums before it

Type stored(bool half) { return half ? Type::bf16 : Type::f32; }
double product(std::initializer_list<int64_t> sizes) {
  double p = 1;
  for (const int64_t s : sizes) p *= static_cast<double>(s);
  return p;
}

double plane(const LadderSizes& s) { return product({s[0], s[1]}); }
double cube(const LadderSizes& s) { return product({s[0], s[1], s[2]}); }
// Pairs of a query and a key that it sees, over all heads.
double pairs(const LadderSizes& s) { return product({s[0], s[1], s[1] + 1}) / 2; }

Ladder layernorm() {
  Ladder l{.name = "layernorm", .formula = "y = (x - mean) / sqrt(variance + eps) * gamma + beta, over rows"};
  l.letters[0] = "N", l.letters[1] = "C";
  l.small = {{37, 203, 0}};
  l.large = {{65536, 768, 0}};
  l.flops = [](const LadderSizes& s) { return 8 * plane(s); };
  l.least_bytes = [](const LadderSizes& s) { return 8 * plane(s); };
  l.steps = {
      {"one thread per row",
       "The formula as a loop. Neighbouring threads are a whole row apart, so every load of a "
       "warp touches 32 places in memory to use 4 bytes of each.",
       "128 N C", [](const LadderSizes& s) { return 128 * plane(s); }},
      {"one warp per row", "The 32 lanes read neighbours, which arrive as one transfer, and add up by shuffles.",
       "16 N C", [](const LadderSizes& s) { return 16 * plane(s); }},
      {"the row stays in registers",
       "Each lane keeps its share of the row, so mean, variance and result need one read.", "8 N C",
       [](const LadderSizes& s) { return 8 * plane(s); }},
      {"16 bytes per access", "A quarter of the load and store instructions, and more bytes on their way at a time.",
       "8 N C", [](const LadderSizes& s) { return 8 * plane(s); }},
      {"bf16 in memory", "Half the bytes; arithmetic stays in f32.", "4 N C",
       [](const LadderSizes& s) { return 4 * plane(s); }, true, kBf16},
  };
  l.arrays = [](const LadderSizes& s, bool half) -> std::vector<LadderArray> {
    return {{"y", s[0] * s[1], Use::output, stored(half)},
            {"x", s[0] * s[1], Use::input, stored(half), -1, 3},
            {"gamma", s[1], Use::input},
            {"beta", s[1], Use::input}};
  };
  l.reference = reference_layernorm;
  return l;
}

Ladder cross_entropy() {
  Ladder l{.name = "cross_entropy", .formula = "loss = log sum exp x - x[target];  dx = softmax(x) - [v = target]"};
  l.letters[0] = "N", l.letters[1] = "V";
  l.small = {{11, 1037, 0}};
  l.large = {{2048, 50257, 0}};
  l.flops = [](const LadderSizes& s) { return 6 * plane(s); };
  l.least_bytes = [](const LadderSizes& s) { return 8 * plane(s); };
  l.steps = {
      {"one thread per row",
       "Maximum, sum, gradient: three loops of one thread, which reads memory that its neighbours "
       "do not share.",
       "128 N V", [](const LadderSizes& s) { return 128 * plane(s); }},
      {"one block per row",
       "256 threads read neighbours and meet twice per reduction: through shuffles, then through "
       "shared memory.",
       "16 N V", [](const LadderSizes& s) { return 16 * plane(s); }},
      {"maximum and sum in one pass",
       "Each thread rescales its sum when its maximum grows (online softmax): two reads "
       "of the logits instead of three.",
       "12 N V", [](const LadderSizes& s) { return 12 * plane(s); }},
      {"16 bytes per access", "Fewer instructions for the same bytes.", "12 N V",
       [](const LadderSizes& s) { return 12 * plane(s); }},
      {"bf16, and the row waits in shared memory",
       "A row of 50,257 logits is 100 KB in bf16 and fits: one read, one "
       "write.",
       "4 N V", [](const LadderSizes& s) { return 4 * plane(s); }, true, kBf16},
  };
  l.arrays = [](const LadderSizes& s, bool half) -> std::vector<LadderArray> {
    return {{"loss", s[0], Use::output},
            {"dx", s[0] * s[1], Use::output, stored(half)},
            {"x", s[0] * s[1], Use::input, stored(half), -4, 4},
            {"targets", s[0], Use::input, Type::i32, 0, static_cast<double>(s[1])}};
  };
  l.reference = reference_cross_entropy;
  return l;
}

Ladder matmul() {
  Ladder l{.name = "matmul", .formula = "C = A B;  A (M, K), B (K, N)"};
  l.letters[0] = "M", l.letters[1] = "N", l.letters[2] = "K";
  l.small = {{67, 75, 41}};
  l.large = {{4096, 4096, 4096}};
  l.flops = [](const LadderSizes& s) { return 2 * cube(s); };
  l.least_bytes = [](const LadderSizes& s) {
    return 4 * (product({s[0], s[2]}) + product({s[1], s[2]}) + product({s[0], s[1]}));
  };
  l.steps = {
      {"one thread per element of C", "The formula as a loop. Every multiplication waits for two loads.",
       "5 M N K + 4 M N", [](const LadderSizes& s) { return 5 * cube(s) + 4 * plane(s); }},
      {"tiles of 16 x 16 in shared memory", "A block loads each number once and uses it 16 times.", "M N K / 2 + 4 M N",
       [](const LadderSizes& s) { return cube(s) / 2 + 4 * plane(s); }},
      {"4 x 4 results per thread",
       "Eight reads of shared memory now feed 16 multiplications instead of two feeding "
       "one; the block's tile grows to 64 x 64.",
       "M N K / 8 + 4 M N", [](const LadderSizes& s) { return cube(s) / 8 + 4 * plane(s); }},
      {"8 x 8 results, 16-byte loads, two buffers",
       "The next tiles travel while the present ones are multiplied, and "
       "one barrier per tile is enough.",
       "M N K / 16 + 4 M N", [](const LadderSizes& s) { return cube(s) / 16 + 4 * plane(s); }},
      {"bf16 on tensor cores",
       "One instruction of a warp multiplies 16 x 16 by 16 x 8; tiles arrive with asynchronous "
       "copies.",
       "M N K / 32 + 4 M N", [](const LadderSizes& s) { return cube(s) / 32 + 4 * plane(s); }, true},
  };
  l.arrays = [](const LadderSizes& s, bool half) -> std::vector<LadderArray> {
    return {{"c", s[0] * s[1], Use::output},
            {"a", s[0] * s[2], Use::input, stored(half)},
            {"b", s[2] * s[1], Use::input, stored(half)}};
  };
  l.reference = reference_matmul;
  return l;
}

Ladder attention() {
  Ladder l{.name = "attention", .formula = "o = softmax(q k^T / sqrt(D)) v, causal; q, k, v (H, T, D), D <= 64"};
  l.letters[0] = "H", l.letters[1] = "T", l.letters[2] = "D";
  l.small = {{2, 77, 40}};
  l.large = {{192, 1024, 64}};
  l.flops = [](const LadderSizes& s) { return 4 * pairs(s) * static_cast<double>(s[2]); };
  l.least_bytes = [](const LadderSizes& s) { return 16 * cube(s); };
  l.steps = {
      {"three kernels, scores in memory", "Products, softmax, products. The T x T scores are written and read twice.",
       "P (36 D + 20), P = H T (T + 1) / 2",
       [](const LadderSizes& s) { return pairs(s) * (36 * static_cast<double>(s[2]) + 20); }},
      {"one thread per query, online softmax",
       "Scores live in a register for a moment: a running maximum, sum and "
       "result replace them. Memory no longer grows with T x T.",
       "P D / 4", [](const LadderSizes& s) { return pairs(s) * static_cast<double>(s[2]) / 4; }},
      {"tiles of k and v in shared memory",
       "64 queries share every key that is loaded, and none waits for memory "
       "alone.",
       "P D / 8", [](const LadderSizes& s) { return pairs(s) * static_cast<double>(s[2]) / 8; }},
      {"bf16 on tensor cores",
       "Both products on mma.sync; the scores of one are, rounded, the operand of the other "
       "without leaving the registers.",
       "P D / 16", [](const LadderSizes& s) { return pairs(s) * static_cast<double>(s[2]) / 16; }, true, 2 * kBf16},
  };
  l.arrays = [](const LadderSizes& s, bool half) -> std::vector<LadderArray> {
    const int64_t n = s[0] * s[1] * s[2];
    return {{"o", n, Use::output, stored(half)},
            {"q", n, Use::input, stored(half), -2, 2},
            {"k", n, Use::input, stored(half), -2, 2},
            {"v", n, Use::input, stored(half)},
            {"scores", half ? 0 : s[0] * s[1] * s[1], Use::scratch}};
  };
  l.reference = reference_attention;
  return l;
}

Ladder adamw() {
  Ladder l{.name = "adamw",
           .formula = "m, v = moments of g;  p -= lr (m' / (sqrt(v') + eps) + decay p);  copy = bf16(p)"};
  l.letters[0] = "P", l.letters[1] = "n";
  l.small = {{5, 1003, 0}};
  l.large = {{148, 250000, 0}};
  l.flops = [](const LadderSizes& s) { return 14 * plane(s); };
  l.least_bytes = [](const LadderSizes& s) { return 30 * plane(s); };
  l.steps = {
      {"a kernel per formula and tensor",
       "Four short kernels for each of P tensors. Everything travels several times, "
       "and 4 P launches cost a few microseconds each.",
       "46 P n", [](const LadderSizes& s) { return 46 * plane(s); }},
      {"one kernel per tensor",
       "All formulas on numbers that are already in registers: each array is read once and "
       "written once.",
       "30 P n", [](const LadderSizes& s) { return 30 * plane(s); }},
      {"one kernel for all tensors",
       "They lie behind each other in flat buffers, so one launch covers them, and small "
       "tensors no longer leave the GPU idle.",
       "30 P n", [](const LadderSizes& s) { return 30 * plane(s); }},
      {"16 bytes per access", "Four elements per thread: fewer instructions, more bytes on their way.", "30 P n",
       [](const LadderSizes& s) { return 30 * plane(s); }},
  };
  l.arrays = [](const LadderSizes& s, bool) -> std::vector<LadderArray> {
    const int64_t n = s[0] * s[1];
    return {{"p", n, Use::updated},
            {"m", n, Use::updated},
            {"v", n, Use::updated, Type::f32, 0.01, 1},
            {"copy", n, Use::output, Type::bf16},
            {"g", n, Use::input}};
  };
  l.reference = reference_adamw;
  return l;
}

}  // namespace

const std::vector<Ladder>& ladders() {
  static const std::vector<Ladder> all = {layernorm(), cross_entropy(), matmul(), attention(), adamw()};
  return all;
}

const Ladder* find_ladder(const std::string& name) {
  for (const Ladder& l : ladders())
    if (name == l.name) return &l;
  return nullptr;
}

}  // namespace accrete::kernels
