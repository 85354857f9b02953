// Optimizers over the flat buffers of a ParamStore. Formulas: kernels/optimizer.h.
//
// The gradient norm is taken over all trainable parameters; the clipping factor stays in device memory and is applied
// while the step kernel reads the gradients, so clipping costs one read.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "engine/nn/params.h"
#include "engine/ops/update.h"
#include "training/gradient_norm.h"
#include "training/step_table.h"
#include "training/stepper.h"

namespace accrete {

struct OptimConfig {
  std::string name = "adamw";
  double lr = 6e-4;
  double weight_decay = 0.1;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  bool bias_correction = true;
  double momentum = 0.9;
  bool nesterov = false;
  int64_t newton_schulz_steps = 5;
  double adam_lr = 0;
  double trust = 0.001;
  bool trust_all = false;
  double clip = 1.0;
  double ema = 0;
  double layer_decay = 1;

  template <class V>
  void fields(V& v) {
    v("name", name, "update rule", one_of("adamw", "sgd", "lamb", "lars", "lion", "muon"));
    v("lr", lr, "peak learning rate", at_least(0));
    v("weight_decay", weight_decay,
      "decoupled decay of matrices; vectors are never decayed (sgd, lars: added to the gradient)", at_least(0));
    v("beta1", beta1, "decay of the first moment (adamw, lamb, lion)", at_least(0), at_most(0.999999));
    v("beta2", beta2, "decay of the second moment (adamw, lamb; lion: of its momentum)", at_least(0),
      at_most(0.9999999));
    v("eps", eps, "added to the root of the second moment", above(0));
    v("bias_correction", bias_correction, "false: the original BERT Adam, without bias correction");
    v("momentum", momentum, "momentum of sgd, lars and muon", at_least(0), at_most(0.999999));
    v("nesterov", nesterov, "Nesterov's form of the momentum (sgd, muon)");
    v("newton_schulz_steps", newton_schulz_steps, "muon: iterations of the orthogonalisation", between(1, 20));
    v("adam_lr", adam_lr, "muon: learning rate of the parameters it leaves to AdamW; 0: the same as lr", at_least(0));
    v("trust", trust, "lars: step of a parameter as a share of its norm, at a learning rate of 1", above(0));
    v("trust_all", trust_all, "lamb, lars: trust ratio also for vectors, which have no weight decay");
    v("clip", clip, "largest global gradient norm; 0: no clipping", at_least(0));
    v("ema", ema, "decay of an exponential moving average of the weights, evaluated beside them; 0: none", at_least(0),
      at_most(0.9999999));
    v("layer_decay", layer_decay,
      "learning rate of a block as a share of that of the block above (fine-tuning: 0.65 to 0.75); 1: all alike",
      above(0), at_most(1));
  }
};

class Optimizer : public Stepper {
 public:
  // `averages`: running averages of the weights kept beside config.ema, decay by name; names begin with "ema".
  Optimizer(const OptimConfig& config, ParamStore& store, const std::map<std::string, double>& averages = {});

  void measure_gradients(double scale = 1, bool keep_bad = false) override {
    norm_.measure(store_.grads(), config_.clip, scale, keep_bad);
  }
  const Tensor& norm2() const override { return norm_.squared(); }
  void prepare(double lr, const BlockSet& skip) override;
  void apply() override;
  bool recurs() const override { return table_ != nullptr; }

  const OptimConfig& config() const { return config_; }
  const std::map<std::string, Tensor>& state() const override { return state_; }
  // "steps": optimizer steps of each entry so far; they decide the bias correction of Adam. A step that f16 skips does
  // not count with adamw; with lamb and muon it does.
  std::map<std::string, std::vector<double>> numbers() const override;
  void set_numbers(const std::map<std::string, std::vector<double>>& numbers) override;
  // The running average of this name; undefined when there is none.
  Tensor average(const std::string& name) const;
  Tensor ema() const { return average("ema"); }
  // To be called when the values were replaced (start of a stage): all averages start from them.
  void reset_averages();

 private:
  // Consecutive parameters that are stepped alike.
  struct Range {
    int64_t begin = 0, count = 0;
    bool decay = false;
    bool matrix = false;  // muon: orthogonalised
    float lr_scale = 1;   // of layer_decay
    int entry = 0;        // first entry of the range
  };
  // Rules that look at one parameter at a time; the others take neighbours with equal settings together.
  bool one_by_one() const { return config_.name == "lamb" || config_.name == "lars" || config_.name == "muon"; }
  // Ranges of the parameters that step together, without those of skipped blocks.
  std::vector<Range> make_ranges(const BlockSet& skip) const;
  int64_t steps_of(const Range& r) const { return static_cast<int64_t>(steps_[static_cast<size_t>(r.entry)]); }
  // One range of the flat buffers; copy is undefined when computing in f32.
  struct View {
    Tensor values, copy, grads;
    float weight_decay;
  };
  View view(const Range& r) const;
  Tensor moment(const char* name, const Range& r) const;
  update::AdamWSettings adam_settings(const Range& r, double lr, float weight_decay) const;
  void send_rates(double lr, const BlockSet& skip);
  void step_ranges(double lr);
  void step_elementwise(const Range& r, double lr);
  void step_lamb(const Range& r, double lr);
  void step_lars(const Range& r, double lr);
  void step_muon(const Range& r, double lr);

  // decay^(L + 1 - k) with k = 0 before the blocks, i + 1 in block i of L, L + 1 behind them (arXiv 2111.06377); what
  // lies between groups of blocks goes with the block before it.
  std::vector<float> layer_scales() const;

  OptimConfig config_;
  ParamStore& store_;
  std::map<std::string, double> decays_;  // of the averages
  std::vector<Range> ranges_;             // without skipped blocks
  std::unique_ptr<StepTable> table_;      // of adamw
  std::vector<double> steps_;             // of each entry so far; with a table: when they were set
  std::vector<float> lr_scales_;          // of each entry
  std::map<std::string, Tensor> state_;
  bool even_ = true;  // the ranges are those of no skipped block
  double lr_ = 0;     // of the step
  GradientNorm norm_;
  Tensor scratch_, norms_;
};

}  // namespace accrete
