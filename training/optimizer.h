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
  bool trust_all = false;
  double clip = 1.0;
  double ema = 0;

  template <class V>
  void fields(V& v) {
    v("name", name, "update rule", one_of("adamw", "sgd", "lamb", "lion", "muon"));
    v("lr", lr, "peak learning rate", at_least(0));
    v("weight_decay", weight_decay,
      "decoupled decay of matrices; vectors are never decayed (sgd: added to the gradient)", at_least(0));
    v("beta1", beta1, "decay of the first moment (adamw, lamb, lion)", at_least(0), at_most(0.999999));
    v("beta2", beta2, "decay of the second moment (adamw, lamb; lion: of its momentum)", at_least(0),
      at_most(0.9999999));
    v("eps", eps, "added to the root of the second moment", above(0));
    v("bias_correction", bias_correction, "false: the original BERT Adam, without bias correction");
    v("momentum", momentum, "momentum of sgd and muon", at_least(0), at_most(0.999999));
    v("nesterov", nesterov, "Nesterov's form of the momentum (sgd, muon)");
    v("newton_schulz_steps", newton_schulz_steps, "muon: iterations of the orthogonalisation", between(1, 20));
    v("adam_lr", adam_lr, "muon: learning rate of the parameters it leaves to AdamW; 0: the same as lr", at_least(0));
    v("trust_all", trust_all, "lamb: trust ratio also for parameters without weight decay");
    v("clip", clip, "largest global gradient norm; 0: no clipping", at_least(0));
    v("ema", ema, "decay of an exponential moving average of the weights, evaluated beside them; 0: none", at_least(0),
      at_most(0.9999999));
  }
};

class Optimizer {
 public:
  Optimizer(const OptimConfig& config, ParamStore& store);

  // Global L2 norm of the gradients, as f32 on the host; not finite when a gradient is not.
  float gradient_norm();
  // One step with learning rate `lr`, using the norm of the last gradient_norm() for clipping. `t` counts from 1.
  void step(double lr, int64_t t);

  const OptimConfig& config() const { return config_; }
  // Flat f32 state by name ("m", "v", "momentum", "ema"): what a checkpoint keeps.
  const std::map<std::string, Tensor>& state() const { return state_; }
  // The averaged weights; undefined without ema.
  Tensor ema() const;
  // To be called when the values were replaced (start of a stage, loading): the average starts from them.
  void reset_ema();

 private:
  // Consecutive parameters that are stepped alike.
  struct Range {
    int64_t begin = 0, count = 0;
    bool decay = false;
    bool matrix = false;  // muon: orthogonalised
    int entry = 0;        // first entry of the range
  };
  void make_ranges();
  // One range of the flat buffers; copy is undefined when computing in f32.
  struct View {
    Tensor values, copy, grads;
    float weight_decay;
  };
  View view(const Range& r) const;
  Tensor moment(const char* name, const Range& r) const;
  update::AdamWSettings adam_settings(double lr, int64_t t, float weight_decay) const;
  void step_elementwise(const Range& r, double lr, int64_t t);
  void step_lamb(const Range& r, double lr, int64_t t);
  void step_muon(const Range& r, double lr);

  OptimConfig config_;
  ParamStore& store_;
  std::vector<Range> ranges_;
  std::map<std::string, Tensor> state_;
  Tensor norm2_, factor_, scratch_, norms_;
};

}  // namespace accrete
