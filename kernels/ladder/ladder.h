// The ladder: kernels worth learning from, each in numbered steps from the first idea to a tuned form. All steps of a
// ladder compute the same thing and are checked against double precision before anything else is said about them.
//
// A ladder is data (this file, ladder.cpp, reference.cpp: host code) plus one .cu file of kernels, LADDER.cu, which is
// compiled for GPUs and for the block emulator like all others. What training uses is not here but in kernels/*.cu;
// README.md compares.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace accrete::kernels {

// The sizes of a problem, in the order of Ladder::letters.
struct LadderSizes {
  int64_t v[3] = {0, 0, 0};
  int64_t operator[](int i) const { return v[i]; }
};

// One array of a problem, in device memory.
struct LadderArray {
  enum class Type : uint8_t { f32, bf16, i32 };
  enum class Use : uint8_t { input, updated, output, scratch };
  const char* name;
  int64_t count;
  Use use;
  Type type = Type::f32;
  double low = -1, high = 1;  // inputs are uniform in [low, high)

  int64_t bytes() const { return count * (type == Type::bf16 ? 2 : 4); }
};

// Counts of a problem of these sizes.
using LadderCount = double (*)(const LadderSizes&);

struct LadderStep {
  const char* title;        // what is new
  const char* why;          // why it helps, one or two sentences
  const char* traffic;      // the formula of `bytes`, in the ladder's letters
  LadderCount bytes;        // that warps ask of memory when no cache helps; 32 for every 4 that lie alone
  bool half = false;        // arrays marked by `arrays` are bf16
  double tolerance = 1e-5;  // largest error as a part of the largest magnitude of an array
};

struct Ladder {
  const char* name;
  const char* formula;
  const char* letters[3];  // names of the sizes; null: there is none
  LadderSizes small;       // a problem that the emulator runs in an instant, with ragged edges
  LadderSizes large;       // a problem worth timing on a GPU
  LadderCount flops;
  LadderCount least_bytes;  // every f32 input read once, every f32 output written once
  std::vector<LadderStep> steps;
  std::vector<LadderArray> (*arrays)(const LadderSizes&, bool half);
  // Fills the outputs and changes the updated arrays; values[i] belongs to arrays(sizes, ...)[i].
  void (*reference)(const LadderSizes&, std::vector<std::vector<double>>& values);
};

const std::vector<Ladder>& ladders();
// Null where there is none of that name.
const Ladder* find_ladder(const std::string& name);

// Runs a step, counted from 1, of the ladder `name` on device memory: data[i] is arrays(sizes, half)[i].
#define ACCRETE_LADDER(name)                                                             \
  void ladder_##name(const Emu&, int step, const LadderSizes& sizes, void* const* data); \
  void ladder_##name(const Cuda&, int step, const LadderSizes& sizes, void* const* data)
ACCRETE_LADDER(layernorm);
ACCRETE_LADDER(cross_entropy);
ACCRETE_LADDER(matmul);
ACCRETE_LADDER(attention);
ACCRETE_LADDER(adamw);
#undef ACCRETE_LADDER

template <class Gpu>
void run_ladder(const Gpu& ctx, const std::string& name, int step, const LadderSizes& sizes, void* const* data) {
  if (name == "layernorm") ladder_layernorm(ctx, step, sizes, data);
  if (name == "cross_entropy") ladder_cross_entropy(ctx, step, sizes, data);
  if (name == "matmul") ladder_matmul(ctx, step, sizes, data);
  if (name == "attention") ladder_attention(ctx, step, sizes, data);
  if (name == "adamw") ladder_adamw(ctx, step, sizes, data);
}

// The references of reference.cpp.
void reference_layernorm(const LadderSizes& sizes, std::vector<std::vector<double>>& values);
void reference_cross_entropy(const LadderSizes& sizes, std::vector<std::vector<double>>& values);
void reference_matmul(const LadderSizes& sizes, std::vector<std::vector<double>>& values);
void reference_attention(const LadderSizes& sizes, std::vector<std::vector<double>>& values);
void reference_adamw(const LadderSizes& sizes, std::vector<std::vector<double>>& values);

inline constexpr double kLadderEps = 1e-5;  // of layernorm
// AdamW's settings and its step number.
inline constexpr double kLadderLr = 0.01, kLadderBeta1 = 0.9, kLadderBeta2 = 0.98, kLadderAdamEps = 1e-6,
                        kLadderDecay = 0.1;
inline constexpr int kLadderStepNumber = 3;

}  // namespace accrete::kernels
