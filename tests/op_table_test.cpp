// Every row of the op table (engine/ops/op_cases.h) on every device: values against double precision, gradients against
// central differences of the double-precision reference, fused against plain, bf16 and f16 against f32 on the same
// rounded inputs, the emulator in three warp orders, the dry device. All fresh memory holds NaN (set_poison), so a
// value that an op forgets to write shows.
//   ACCRETE_OP_SPEED=1   instead of testing prints the speed of every row
//   ACCRETE_OP_ERRORS=1  also prints the largest error of every row beside its tolerance
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>

#include "engine/core/capture.h"
#include "engine/core/random.h"
#include "tests/gpu_testing.h"
#include "tests/op_testing.h"
#include "tests/reference.h"

using namespace accrete;
using ops::OpCase;
using ops::OpInput;
using ops::OpRow;
using ops::Tensors;
using reference::Array;
using reference::Arrays;

namespace {

using Values = std::vector<std::vector<double>>;
using Run = std::function<Tensors(const Tensors&, const ops::OpSettings&)>;

struct Poison {
  Poison() { set_poison(true); }
  ~Poison() { set_poison(false); }
};

double random_at(uint64_t stream, uint64_t i) {  // uniform in [-1, 1)
  return 2.0 * static_cast<double>(to_uniform(random_words(RandomKey{5, stream, 0}, i / 4).v[i % 4])) - 1.0;
}

std::vector<double> widened(const Tensor& t) {
  if (t.dtype() == DType::i32) {
    const auto v = t.to_vector<int32_t>();
    return {v.begin(), v.end()};
  }
  const auto v = t.to_vector<float>();
  return {v.begin(), v.end()};
}

std::string label(const OpRow& row, const OpCase& c, const std::string& what) {
  std::ostringstream text;
  text << row.name << ' ' << what << ", inputs";
  for (const OpInput& in : c.inputs) text << ' ' << in.shape;
  return text.str();
}

// Gradient of output k, rounded to what its type can hold.
Tensor output_gradient(const Tensor& y, size_t k) {
  std::vector<float> v(static_cast<size_t>(y.count()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = to_float(from_float<bf16>(static_cast<float>(random_at(900 + k, i))));
  return ops::cast(Tensor::from(v, y.shape(), y.device()), y.dtype());
}

struct Result {
  Values outputs, grads;  // a gradient that never arrived is all zeros
  Cost cost;
  std::vector<std::pair<Shape, DType>> shapes;
};

// What is differentiated: the only output, or one scalar that depends on all of them.
void differentiate(const Tensors& y, const Tensors& dy) {
  if (y.size() == 1) return backward(y[0], dy[0]);
  Tensor total;
  for (size_t k = 0; k < y.size(); ++k) {
    const Tensor part = ops::sum(ops::mul(y[k], dy[k]));
    total = total.defined() ? ops::add(total, part) : part;
  }
  backward(total);
}

void take_gradients(Result& r, const OpCase& c, const Tensors& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<double> g;
    if (inputs[i].defined() && c.inputs[i].differentiable()) {
      const Tensor grad = grad_of(inputs[i]);
      g = grad.defined() ? widened(grad) : std::vector<double>(static_cast<size_t>(inputs[i].count()), 0.0);
    }
    r.grads.push_back(std::move(g));
  }
}

Result run_case(const OpRow& row, const OpCase& c, const Run& run, const Tensors& inputs) {
  Result r;
  Tape tape;
  const Tensors y = run(inputs, c.settings);
  for (const Tensor& t : y) {
    r.outputs.push_back(widened(t));
    r.shapes.emplace_back(t.shape(), t.dtype());
  }
  if (row.no_gradient.empty()) {
    Tensors dy;
    for (size_t k = 0; k < y.size(); ++k) dy.push_back(output_gradient(y[k], k));
    differentiate(y, dy);
    take_gradients(r, c, inputs);
  }
  r.cost = tape.cost();
  return r;
}

// The same from recorded launches. `known`: what a run on equal inputs gave.
Result replay_case(const OpRow& row, const OpCase& c, const Tensors& inputs, const Result& known, Device device) {
  Tensors y, dy;
  for (size_t k = 0; row.no_gradient.empty() && k < known.shapes.size(); ++k)
    dy.push_back(output_gradient(Tensor::empty(known.shapes[k].first, known.shapes[k].second, device), k));
  const Capture capture(device, make_pool(device), [&] {
    Tape tape;
    y = row.run(inputs, c.settings);
    if (row.no_gradient.empty()) differentiate(y, dy);
  });
  capture.replay();
  Result r;
  for (const Tensor& t : y) r.outputs.push_back(widened(t));
  if (row.no_gradient.empty()) take_gradients(r, c, inputs);
  return r;
}

// ---- comparing ------------------------------------------------------------------------------------------------------

std::map<std::string, double> worst;  // by row and kind: largest error / tolerance

// Largest difference as a part of the largest magnitude of the correct values (at least 0.01, so that zero may be
// compared).
void expect_close(const OpRow& row, const std::string& kind, const std::string& what, const std::vector<double>& got,
                  const std::vector<double>& want, double tolerance) {
  REQUIRE_MESSAGE(got.size() == want.size(), what);
  double largest = 1e-2, error = 0;
  size_t at = 0;
  for (const double w : want) largest = std::max(largest, std::abs(w));
  for (size_t i = 0; i < got.size(); ++i) {
    const double e = std::isfinite(got[i]) ? std::abs(got[i] - want[i]) / largest : INFINITY;
    if (e > error) error = e, at = i;
  }
  double& w = worst[row.name + " " + kind];
  w = std::max(w, error);
  CHECK_MESSAGE(error <= tolerance, what << ": error " << error << " > " << tolerance << " at element " << at
                                         << ", got " << got[at] << ", expected " << want[at]);
}

Arrays to_arrays(const Tensors& inputs) {
  Arrays out;
  for (const Tensor& t : inputs) {
    Array a;
    a.present = t.defined();
    if (t.defined()) a.shape = t.shape(), a.v = widened(t);
    out.push_back(std::move(a));
  }
  return out;
}

// The scalar that is differentiated: sum over all outputs of output * its gradient.
double objective(const OpRow& row, const OpCase& c, const Arrays& in, const Values& dy) {
  const Arrays y = reference::evaluate(row.name, in, c.settings);
  double total = 0;
  for (size_t k = 0; k < y.size(); ++k)
    for (size_t i = 0; i < y[k].v.size(); ++i) total += y[k].v[i] * dy[k][i];
  return total;
}

constexpr double kStep = 1e-5;  // central differences in double: truncation and rounding are both below 1e-8

struct Expected {
  Arrays outputs;
  std::vector<std::vector<std::pair<size_t, double>>> grads;  // per input: some elements
  double along = 0;                                           // derivative along one random direction of all inputs
};

Expected expected_of(const OpRow& row, const OpCase& c, const Tensors& inputs) {
  Expected e;
  Arrays in = to_arrays(inputs);
  e.outputs = reference::evaluate(row.name, in, c.settings);
  if (!row.no_gradient.empty()) return e;
  Values dy;
  for (size_t k = 0; k < e.outputs.size(); ++k)
    dy.push_back(widened(output_gradient(Tensor::empty(e.outputs[k].shape), k)));
  const auto difference = [&](const Arrays& plus, const Arrays& minus) {
    return (objective(row, c, plus, dy) - objective(row, c, minus, dy)) / (2 * kStep);
  };
  Arrays plus = in, minus = in;
  for (size_t i = 0; i < in.size(); ++i) {
    e.grads.emplace_back();
    if (!in[i].present || !c.inputs[i].differentiable()) continue;
    const size_t n = in[i].v.size(), picked = std::min<size_t>(n, 40);
    for (size_t p = 0; p < picked; ++p) {  // all elements, or a spread of 40
      const size_t at = n <= 40 ? p : (p * n / picked + (p * 7919) % (n / picked)) % n;
      const double before = in[i].v[at];
      plus[i].v[at] = before + kStep;
      minus[i].v[at] = before - kStep;
      e.grads[i].emplace_back(at, difference(plus, minus));
      plus[i].v[at] = minus[i].v[at] = before;
    }
    for (size_t j = 0; j < n; ++j) {
      const double direction = random_at(700 + i, j);
      plus[i].v[j] += kStep * direction;
      minus[i].v[j] -= kStep * direction;
    }
    e.along += difference(plus, minus);  // this input alone; the sum is the derivative along all of them
    plus[i] = minus[i] = in[i];
  }
  return e;
}

void check_against_reference(const OpRow& row, const OpCase& c, const Expected& want, const Result& got,
                             const std::string& where) {
  REQUIRE(got.outputs.size() == want.outputs.size());
  for (size_t k = 0; k < want.outputs.size(); ++k) {
    CHECK_MESSAGE(got.shapes[k].first == want.outputs[k].shape, label(row, c, where));
    expect_close(row, "value", label(row, c, where + " value"), got.outputs[k], want.outputs[k].v, row.value_tolerance);
  }
  if (!row.no_gradient.empty()) return;
  double along = 0, size = 1e-2;
  for (size_t i = 0; i < got.grads.size(); ++i) {
    if (got.grads[i].empty()) continue;
    std::vector<double> some, correct;
    for (const auto& [at, g] : want.grads[i]) {
      some.push_back(got.grads[i][at]);
      correct.push_back(g);
    }
    expect_close(row, "gradient", label(row, c, where + " gradient of input " + std::to_string(i)), some, correct,
                 row.gradient_tolerance);
    for (size_t j = 0; j < got.grads[i].size(); ++j) {
      const double term = got.grads[i][j] * random_at(700 + i, j);
      along += term;
      size += std::abs(term);
    }
  }
  CHECK_MESSAGE(
      std::abs(along - want.along) <= row.gradient_tolerance * size,
      label(row, c, where) << " derivative along a random direction: " << along << ", expected " << want.along);
}

Tensors leaves(const OpCase& c, DType dtype, Device device) { return ops::make_inputs(c, dtype, device, 77, true); }

// The same numbers as the inputs in a half type, held in f32.
Tensors widened_leaves(const OpCase& c, DType half, Device device) {
  Tensors out;
  for (const Tensor& t : leaves(c, half, device))
    out.push_back(t.defined() && t.dtype() == half ? require_grad(ops::cast(t, DType::f32).detach()) : t);
  return out;
}

void check_same_as(const OpRow& row, const OpCase& c, const std::string& kind, const Result& got, const Result& want,
                   double value_tolerance, double gradient_tolerance) {
  REQUIRE(got.outputs.size() == want.outputs.size());
  for (size_t k = 0; k < want.outputs.size(); ++k)
    expect_close(row, kind + " value", label(row, c, kind), got.outputs[k], want.outputs[k], value_tolerance);
  for (size_t i = 0; i < want.grads.size(); ++i)
    expect_close(row, kind + " gradient", label(row, c, kind + " gradient of input " + std::to_string(i)), got.grads[i],
                 want.grads[i], gradient_tolerance);
}

// The plain composition rounds every intermediate to the half type where the fused op keeps f32; a softmax weight or a
// normalised value then carries several of them.
double plain_tolerance(DType half) { return half == DType::bf16 ? 0.03 : 0.03 / 8; }

void check_row(const OpRow& row, Device device, const std::string& where) {
  for (const OpCase& c : row.cases) {
    const Tensors f32_inputs = leaves(c, DType::f32, device);
    const Arrays before = to_arrays(f32_inputs);
    const Result f32 = run_case(row, c, row.run, f32_inputs);
    check_against_reference(row, c, expected_of(row, c, f32_inputs), f32, where + " f32");
    const Arrays after = to_arrays(f32_inputs);
    for (size_t i = 0; i < before.size(); ++i)
      CHECK_MESSAGE(before[i].v == after[i].v, label(row, c, where) << " overwrote input " << i);

    if (row.plain)
      check_same_as(row, c, "plain", run_case(row, c, row.plain, leaves(c, DType::f32, device)), f32,
                    4 * row.value_tolerance, 4 * row.gradient_tolerance);
    for (const DType half : {DType::bf16, DType::f16}) {
      const std::string type(name_of(half));
      const Result wide = run_case(row, c, row.run, widened_leaves(c, half, device));
      const Result narrow = run_case(row, c, row.run, leaves(c, half, device));
      check_same_as(row, c, type, narrow, wide, row.half_tolerance(half), row.half_tolerance(half));
      if (row.plain)
        check_same_as(row, c, "plain " + type, run_case(row, c, row.plain, leaves(c, half, device)), wide,
                      plain_tolerance(half), plain_tolerance(half));
    }
  }
}

void check_same_bits(const OpRow& row, const OpCase& c, const Result& a, const Result& b, const std::string& what) {
  CHECK_MESSAGE(a.outputs == b.outputs, label(row, c, "value " + what));
  CHECK_MESSAGE(a.grads == b.grads, label(row, c, "gradient " + what));
}

bool speed_mode() { return std::getenv("ACCRETE_OP_SPEED") != nullptr; }

}  // namespace

TEST_CASE("every op on the cpu") {
  if (speed_mode()) return;
  const Poison poison;
  for (const OpRow& row : ops::op_table()) check_row(row, kCpu, "cpu");
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("every op on the emulator, in three warp orders with equal bits") {
  if (speed_mode()) return;
  const Poison poison;
  for (const OpRow& row : ops::op_table()) {
    set_warp_order(kernels::WarpOrder::forward);
    check_row(row, kEmu, "emu");
    for (const OpCase& c : row.cases)
      for (const DType dtype : {DType::f32, DType::bf16}) {
        std::vector<Result> results;
        for (const auto order :
             {kernels::WarpOrder::forward, kernels::WarpOrder::reverse, kernels::WarpOrder::shuffled}) {
          set_warp_order(order, 3);
          results.push_back(run_case(row, c, row.run, leaves(c, dtype, kEmu)));
        }
        for (size_t i = 1; i < results.size(); ++i)
          check_same_bits(row, c, results[i], results[0], "depends on the warp order");
      }
  }
  set_warp_order(kernels::WarpOrder::forward);
}
#endif

TEST_CASE("every op on a GPU, twice with equal bits") {
  const auto gpu = test_gpu();
  if (speed_mode() || !gpu) return;
  const Poison poison;
  for (const OpRow& row : ops::op_table()) {
    check_row(row, *gpu, "gpu");
    for (const OpCase& c : row.cases)
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        const Result once = run_case(row, c, row.run, leaves(c, dtype, *gpu));
        check_same_bits(row, c, run_case(row, c, row.run, leaves(c, dtype, *gpu)), once, "changes from run to run");
      }
  }
}

TEST_CASE("every op can be recorded and replayed, with the bits of a run") {
  if (speed_mode()) return;
  const Poison poison;
  for (const Device device : queued_devices())
    for (const OpRow& row : ops::op_table())
      for (const OpCase& c : row.cases) {
        const Result run = run_case(row, c, row.run, leaves(c, DType::bf16, device));
        check_same_bits(row, c, replay_case(row, c, leaves(c, DType::bf16, device), run, device), run,
                        "differs when it is replayed on " + name_of(device));
      }
}

TEST_CASE("a row without a gradient states the reason that backward gives") {
  if (speed_mode()) return;
  for (const OpRow& row : ops::op_table()) {
    if (row.no_gradient.empty()) continue;
    const auto& inputs = row.cases[0].inputs;
    const auto differentiable = [](const ops::OpInput& in) { return in.differentiable(); };
    if (std::none_of(inputs.begin(), inputs.end(), differentiable))
      continue;  // nothing that backward could be asked for
    Tape tape;
    const Tensors y = row.run(leaves(row.cases[0], DType::f32, kCpu), row.cases[0].settings);
    const std::string message = error_of([&] { backward(y[0], Tensor::zeros(y[0].shape(), y[0].dtype())); });
    CHECK(message == "[" + row.name + "] has no gradient: " + row.no_gradient);
  }
}

TEST_CASE("without a tape and inside NoGrad every op gives the same bits and no history") {
  if (speed_mode()) return;
  const Poison poison;
  for (const OpRow& row : ops::op_table())
    for (const OpCase& c : row.cases) {
      const Tensors inputs = leaves(c, DType::bf16, kCpu);
      const Tensors bare = row.run(inputs, c.settings);
      Tape tape;
      const Tensors recorded = row.run(inputs, c.settings);
      const double flops = tape.cost().flops, bytes = tape.cost().bytes;
      Tensors quiet;
      {
        const NoGrad no_grad;
        quiet = row.run(inputs, c.settings);
      }
      CHECK_MESSAGE(tape.cost().flops == 2 * flops, label(row, c, "FLOPs inside NoGrad"));
      CHECK_MESSAGE(tape.cost().bytes == 2 * bytes, label(row, c, "bytes inside NoGrad"));
      for (size_t k = 0; k < bare.size(); ++k) {
        CHECK_MESSAGE(widened(bare[k]) == widened(recorded[k]), label(row, c, "value under a tape"));
        CHECK_MESSAGE(widened(bare[k]) == widened(quiet[k]), label(row, c, "value inside NoGrad"));
        const bool given_back = quiet[k].grad_meta() && quiet[k].grad_meta() == inputs[0].grad_meta();  // dropout of 0
        if (!given_back) CHECK_MESSAGE(!requires_grad(quiet[k]), label(row, c, "history inside NoGrad"));
      }
    }
}

TEST_CASE("the dry device gives the shapes and the cost of the cpu and touches no memory") {
  if (speed_mode()) return;
  for (const OpRow& row : ops::op_table())
    for (const OpCase& c : row.cases)
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        const Result cpu = run_case(row, c, row.run, leaves(c, dtype, kCpu));
        const int64_t before = device_allocations(kDry);
        const Result dry = run_case(row, c, row.run, leaves(c, dtype, kDry));
        CHECK_MESSAGE(device_allocations(kDry) == before, label(row, c, "dry"));
        CHECK_MESSAGE(cpu.shapes == dry.shapes, label(row, c, "dry shapes"));
        CHECK_MESSAGE(cpu.cost.flops == dry.cost.flops, label(row, c, "dry FLOPs"));
        CHECK_MESSAGE(cpu.cost.bytes == dry.cost.bytes, label(row, c, "dry bytes"));
        CHECK_MESSAGE(cpu.cost.backward_flops == dry.cost.backward_flops, label(row, c, "dry backward FLOPs"));
        CHECK_MESSAGE(cpu.cost.backward_bytes == dry.cost.backward_bytes, label(row, c, "dry backward bytes"));
      }
}

TEST_CASE("token ids and targets may be on the dry device themselves") {
  Tape tape;
  const Tensor ids = Tensor::empty(Shape{2, 5}, DType::i32, kDry);
  const Tensor table = require_grad(Tensor::empty(Shape{7, 3}, DType::f32, kDry));
  const Tensor x = ops::embedding(ids, table, Tensor());
  const Tensor loss = ops::cross_entropy(ops::linear(x, table, Tensor()), ids);
  backward(loss);
  CHECK(loss.shape() == Shape{});
  CHECK(tape.cost().flops >= 2.0 * 10 * 7 * 3);
}

TEST_CASE("every function of ops.h and images.h has a row, and every row a reason for its tolerances") {
  if (speed_mode()) return;
  std::set<std::string> declared, covered;
  for (const std::string header : {"ops.h", "images.h"}) {
    std::ifstream in(std::string(ACCRETE_SOURCE_DIR) + "/engine/ops/" + header);
    const size_t before = declared.size();
    for (std::string line; std::getline(in, line);) {  // "Tensor name(", "inline Tensor name(", "ResidualNorm name("
      if (line.rfind("inline ", 0) == 0) line.erase(0, 7);
      for (const std::string type : {"Tensor ", "ResidualNorm "})
        if (line.rfind(type, 0) == 0 && line.find('(') != std::string::npos)
          declared.insert(line.substr(type.size(), line.find('(') - type.size()));
    }
    CHECK_MESSAGE(declared.size() >= before + 10, "too few functions found in " << header);
  }
  CHECK(declared.size() >= 30);  // the header is still read as it is written
  std::set<std::string> names;
  for (const OpRow& row : ops::op_table()) {
    CHECK_MESSAGE(names.insert(row.name).second, "two rows named " << row.name);
    CHECK_MESSAGE(!row.why.empty(), row.name);
    CHECK_MESSAGE(row.cases.size() >= 3, row.name);
    CHECK_MESSAGE(row.speed.inputs.size() == row.cases[0].inputs.size(), row.name);
    covered.insert(row.functions.begin(), row.functions.end());
    if (row.plain) covered.insert(row.name + "_plain");
  }
  for (const std::string& name : declared) CHECK_MESSAGE(covered.count(name) == 1, name << " has no row");
  for (const std::string& name : covered) CHECK_MESSAGE(declared.count(name) == 1, name << " is declared nowhere");
}

TEST_CASE("wrong inputs are refused with op, what was expected and what was given") {
  if (speed_mode()) return;
  const Tensor a = Tensor::zeros(Shape{3, 4}), b = Tensor::zeros(Shape{4, 3}), none;
  const Tensor half = Tensor::zeros(Shape{3, 4}, DType::bf16), id = Tensor::from<int32_t>({0, 7}, Shape{1, 2});
  CHECK(error_of([&] { ops::add(a, b); }) == "[add] shapes differ: (3, 4) and (4, 3)");
  CHECK(error_of([&] { ops::mul(a, half); }) == "[mul] types differ: f32 and bf16");
  CHECK(error_of([&] { ops::matmul(a, a); }) == "[matmul] inner sizes differ: a is (3, 4), b is (3, 4)");
  CHECK(error_of([&] { ops::linear(a, b, none); }) == "[linear] inner sizes differ: x is (3, 4), w is (4, 3)");
  CHECK(error_of([&] { ops::linear(a, a, Tensor::zeros(Shape{2})); }).find("bias does not fit; expected (3) f32") !=
        std::string::npos);
  CHECK(error_of([&] { ops::bias_add(a, Tensor::zeros(Shape{3})); }).find("expected (4) f32; got (3)") !=
        std::string::npos);
  CHECK(error_of([&] { ops::layernorm(a, Tensor::zeros(Shape{3}), none, 1e-5f); }).find("gamma does not fit") !=
        std::string::npos);
  CHECK(error_of([&] {
          ops::attention(Tensor::zeros(Shape{1, 2, 10}), {});
        }).find("3 * heads * head_dim") != std::string::npos);
  CHECK(error_of([&] { ops::embedding(id, b, none); }) ==
        "[embedding] token id beyond the vocabulary; expected 0 to 3; got 7 at row 0, position 1");
  CHECK(error_of([&] {
          ops::embedding(id, Tensor::zeros(Shape{9, 3}), Tensor::zeros(Shape{1, 3}));
        }).find("exceeds the 1 positions") != std::string::npos);
  CHECK(error_of([&] {
          ops::cross_entropy(Tensor::zeros(Shape{2, 5}), id);
        }).find("target beyond the classes") != std::string::npos);
  CHECK(error_of([&] { ops::dropout(a, 1.0f, {}); }).find("expected 0 <= p < 1") != std::string::npos);
  CHECK(error_of([&] { ops::slice_last(a, 2, 5); }).find("columns [2, 5) do not fit (3, 4)") != std::string::npos);
  CHECK(error_of([&] { ops::mean(Tensor::zeros(Shape{0})); }).find("of no elements") != std::string::npos);
  CHECK(error_of([&] { ops::reshape(a, Shape{5}); }).find("expected 12 for (3, 4)") != std::string::npos);
}

TEST_CASE("speed of every op (ACCRETE_OP_SPEED=1)") {
  if (!speed_mode()) return;
  std::printf("%-20s %-5s %10s %8s %8s   %10s %8s %8s\n", "op", "type", "forward", "GB/s", "GFLOP/s", "backward",
              "GB/s", "GFLOP/s");
  for (const OpRow& row : ops::op_table())
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const ops::OpSpeed s = ops::measure_speed(row, dtype, kCpu, 10);
      const auto rate = [](double amount, double seconds) { return seconds > 0 ? amount / seconds * 1e-9 : 0.0; };
      std::printf("%-20s %-5s %7.3f ms %8.1f %8.1f   %7.3f ms %8.1f %8.1f\n", row.name.c_str(),
                  std::string(name_of(dtype)).c_str(), s.forward_s * 1e3, rate(s.cost.bytes, s.forward_s),
                  rate(s.cost.flops, s.forward_s), s.backward_s * 1e3, rate(s.cost.backward_bytes, s.backward_s),
                  rate(s.cost.backward_flops, s.backward_s));
      CHECK(s.forward_s > 0);
    }
}

TEST_CASE("largest errors (ACCRETE_OP_ERRORS=1)") {
  if (!std::getenv("ACCRETE_OP_ERRORS")) return;
  for (const OpRow& row : ops::op_table()) {
    std::printf("%-18s allowed %.0e %.0e %.0e; found", row.name.c_str(), row.value_tolerance, row.gradient_tolerance,
                row.bf16_tolerance);
    for (const auto& [name, error] : worst)
      if (name.rfind(row.name + " ", 0) == 0) std::printf("  %s %.1e", name.c_str() + row.name.size() + 1, error);
    std::printf("\n");
  }
  CHECK(!worst.empty());
}
