// modular_addition: a model and a training loop written by hand, on one page.
//
// A small network sees half of the table a + b = ? (mod p) and must fill in the other half. It first learns its half by
// heart, which says nothing about the rest; much later, pressed by weight decay, it finds the rule, and the accuracy on
// sums it never saw jumps (Power et al. 2022, "Grokking").
#include <algorithm>

#include "apps/experiment.h"
#include "engine/autograd/tape.h"
#include "engine/nn/layers.h"
#include "training/optimizer.h"

using namespace accrete;

namespace {

// logits = out(gelu(hidden([digits[a], digits[b]])))
struct Adder {
  ParamStore store;
  Param digits;  // (p, width): one learned vector per number
  nn::Linear hidden, out;

  Adder(int64_t p, int64_t width, uint64_t seed, Device device) : store(DType::f32, device) {
    const Scope s(store);
    digits = s.param("digits", {p, width}, {kVocab, kEmbed}, Init::normal(0.1f), true);
    hidden = nn::Linear(s / "hidden", 2 * width, kEmbed, 4 * width, kMlp, Init::normal(0.05f));
    out = nn::Linear(s / "out", 4 * width, kMlp, p, kVocab, Init::normal(0.05f));
    store.allocate();
    store.initialise(seed);
  }
  Tensor logits(const Tensor& pairs) const {                            // (N, 2) i32 -> (N, p)
    const Tensor x = ops::embedding(pairs, digits(), {});               // (N, 2, width)
    const Tensor ab = ops::reshape(x, {pairs.size(0), 2 * x.size(2)});  // (N, 2 width)
    return out(hidden.with_gelu(ab, ops::Gelu::tanh, Context{}), Context{});
  }
};

struct Table {
  Tensor pairs, sums;  // (N, 2), (N) i32
};

// Each of the p * p sums is tossed into one half; the toss has an address, so a seed always gives the same halves.
Table make_table(bool seen, int32_t p, uint64_t seed, Device device) {
  std::vector<int32_t> pairs, sums;
  for (int32_t i = 0; i < p * p; ++i) {
    if ((random_below(random_key(seed, "table"), static_cast<uint64_t>(i), 2) == 0) != seen) continue;
    pairs.insert(pairs.end(), {i / p, i % p});
    sums.push_back((i / p + i % p) % p);
  }
  const auto n = static_cast<int64_t>(sums.size());
  return {Tensor::from(pairs, {n, 2}, device), Tensor::from(sums, {n}, device)};
}

// Share of the sums that the model gets right.
double accuracy(const Adder& model, const Table& table) {
  const NoGrad quiet;
  const auto scores = model.logits(table.pairs).to_vector<float>();
  const auto sums = table.sums.to_vector<int32_t>();
  const size_t p = scores.size() / sums.size();
  double right = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const float* row = &scores[i * p];
    right += std::max_element(row, row + p) - row == sums[i];
  }
  return right / static_cast<double>(sums.size());
}

}  // namespace

int main(int argc, char** argv) {
  Experiment e("modular_addition", "Learns addition modulo p from half of the table, by a training loop on one page.");
  int32_t p = 31;
  int64_t steps = 4000;
  OptimConfig optim{.lr = 2e-3, .weight_decay = 1.0};
  e.options.add_option("--modulus", p, "p")->check(CLI::Range(4, 1000))->capture_default_str();
  e.options.add_option("--steps", steps, "Optimizer steps")->check(CLI::Range(1, 1000000))->capture_default_str();
  e.options.add_option("--weight-decay", optim.weight_decay, "Pressure towards the rule")->capture_default_str();
  return e.run(argc, argv, [&] {
    const Table seen = make_table(true, p, e.seed, e.device), unseen = make_table(false, p, e.seed, e.device);
    Adder model(p, 64, e.seed, e.device);
    Optimizer optimizer(optim, model.store);
    double loss = 0;
    for (int64_t step = 1; step <= steps; ++step) {
      Tape tape;  // ops record themselves while it lives
      model.store.zero_grads();
      const Tensor mean_loss = ops::cross_entropy(model.logits(seen.pairs), seen.sums);
      backward(mean_loss);  // gradients land in the store
      loss = mean_loss.item();
      optimizer.gradient_norm();  // for clipping
      optimizer.step(optim.lr);
      if (step % std::max<int64_t>(1, steps / 10) == 0) {
        char line[120];
        std::snprintf(line, sizeof line, "step %lld  loss %.4f  seen %.1f%%  unseen %.1f%%",
                      static_cast<long long>(step), loss, 100 * accuracy(model, seen), 100 * accuracy(model, unseen));
        e.report.log(line);
      }
    }
    e.result({{"loss", loss}, {"seen", accuracy(model, seen)}, {"unseen", accuracy(model, unseen)}});
  });
}
