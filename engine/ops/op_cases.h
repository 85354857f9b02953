// The op table: one row for every function of ops.h and images.h, with the inputs it is tried on. Tests run each case
// on every device (tests/op_table_test.cpp), `bench ops` times the speed case of each row, `inspect ops` prints the
// table. An op without a row fails a test, so this is also the list of what the engine can do.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/ops/ops.h"

namespace accrete::ops {

using Tensors = std::vector<Tensor>;

// What the functions of a row need besides tensors. A row reads only the fields that mean something to it.
struct OpSettings {
  float alpha = 1.0f, beta = 0.0f;  // affine
  int64_t begin = 0, end = 0;       // slices
  Shape shape;                      // reshape
  bool trans_a = false, trans_b = false;
  Gelu gelu = Gelu::tanh;
  float eps = 1e-5f;
  bool causal = false;
  int64_t heads = 1;
  float dropout = 0.0f;
  RandomKey key{20, 24, 3};
  int64_t first = 0;   // element, sample or position that random numbers or position rows start at
  int64_t length = 0;  // tokens in the cache
  float smoothing = 0.0f;
  int64_t height = 0, width = 0;            // images and grids: of the result
  int64_t from_h = 0, from_w = 0;           // grids of positions: before
  double offset = 0.0;                      // resample_grid
  int64_t kernel = 1, stride = 1, pad = 0;  // convolution; kernel: also the size of a patch
  bool training = false;                    // batch_norm
  float momentum = 0.1f;
  float scale = 1.0f;  // of attention scores
  int64_t unit = 1;    // mix_tokens
};

// One input. Numbers are uniform in [low, high); ids are integers in [low, high).
struct OpInput {
  enum class Kind : uint8_t {
    activation,  // in the type of the case: f32, bf16 or f16
    vector,      // f32 always: biases, norm parameters
    ids,         // i32, no gradient
    data,        // f32 always, no gradient: soft targets, running statistics
    absent,      // an undefined tensor
  };
  Shape shape;
  double low = -1, high = 1;
  Kind kind = Kind::activation;
  bool differentiable() const { return kind == Kind::activation || kind == Kind::vector; }
};

struct OpCase {
  std::vector<OpInput> inputs;
  OpSettings settings;
};

struct OpRow {
  std::string name;
  std::vector<std::string> functions;  // of ops.h and images.h that this row covers, without the _plain twins
  std::function<Tensors(const Tensors&, const OpSettings&)> run;
  std::function<Tensors(const Tensors&, const OpSettings&)> plain;  // the composition of simple ops; may be null
  std::vector<OpCase> cases;
  OpCase speed;  // a realistic size: 1024 tokens of GPT-2 small
  // Largest error allowed, as a part of the largest magnitude of the correct result: f32 values, f32 gradients, and
  // bf16 (both) against an f32 run on the same rounded inputs.
  double value_tolerance, gradient_tolerance, bf16_tolerance;
  // The same for f16; negative: follows from that for bf16. The numbers of f16 are eight times finer, and those of the
  // cases lie within its range; f32 sums and numbers below its normal ones (6e-5) leave the rest.
  double f16_tolerance = -1;
  double half_tolerance(DType t) const {
    if (t == DType::bf16 || bf16_tolerance == 0) return bf16_tolerance;
    return f16_tolerance < 0 ? bf16_tolerance / 8 + 2e-5 : f16_tolerance;
  }
  std::string why;          // these tolerances
  std::string no_gradient;  // the reason, for an op that has none
};

const std::vector<OpRow>& op_table();
// The row of that name; Error when there is none.
const OpRow& op_row(const std::string& name);

// The inputs of a case with values from the address (seed, name of the input). Activations and vectors are leaves that
// want a gradient when `gradients`. Ids stay in host memory.
Tensors make_inputs(const OpCase& c, DType dtype, Device device, uint64_t seed, bool gradients);

struct OpSpeed {
  double forward_s = 0, backward_s = 0;  // best of `repeats`: what the machine can do, not what others left
  Cost cost;                             // of one forward and backward
};
// Times the speed case of a row. backward_s is 0 where there is no gradient.
OpSpeed measure_speed(const OpRow& row, DType dtype, Device device, int repeats);

}  // namespace accrete::ops
