// Training in an affine subspace: the weights are w0 + P (x - x0) with few coefficients x, which an optimizer steps
// by P^T of the ordinary gradient (twa spec 3.2, 4.3).
//
//   sgd     m = momentum m + (P^T g + weight_decay x);  x -= lr m
//   adamw   Loshchilov & Hutter on x
//
// A rate that is too large for the problem makes sgd diverge; so that it does not, a step of sgd goes at most `reach`
// of the snapshots' spread (BasisReport), its momentum scaled along. Good rates never come there.
//
// Coefficients and their optimizer's state are f64, on the host. With x = x0 the weights are w0 bit for bit, whatever
// the precision of P. On a queued device the rows of P lie in its memory where they fit (training/device_basis.h); else
// every step brings the gradient to the host, where the rows are read from their file, and the weights back.
#pragma once

#include <limits>
#include <optional>

#include "training/basis.h"
#include "training/device_basis.h"
#include "training/gradient_norm.h"
#include "training/optimizer.h"
#include "training/stepper.h"

namespace accrete {

class Subspace : public Stepper {
 public:
  // The store holds w0, the weights sum_i alpha_i w_i of the basis' snapshots. Of `config` count name, weight_decay,
  // momentum, beta1, beta2, eps and clip (of the whole gradient, before it is projected). reach 0: no limit. `room`:
  // bytes of a queued device that the rows may take.
  Subspace(const OptimConfig& config, ParamStore& store, Basis basis, std::span<const double> alpha, double reach = 0,
           int64_t room = std::numeric_limits<int64_t>::max());

  void measure_gradients(double scale = 1, bool keep_bad = false) override {
    norm_.measure(store_.grads(), config_.clip, scale, keep_bad);
  }
  const Tensor& norm2() const override { return norm_.squared(); }
  void prepare(double lr, const BlockSet& skip) override;
  void apply() override;

  // "start": w0. Numbers: "coefficients", the optimizer's moments, "count" of steps and "limited", those that
  // reach cut short.
  const std::map<std::string, Tensor>& state() const override { return state_; }
  std::map<std::string, std::vector<double>> numbers() const override { return numbers_; }
  void set_numbers(const std::map<std::string, std::vector<double>>& numbers) override;
  // Averaging shares of the snapshots over all blocks (smallest, largest, mean of the blocks' sums and of their sums of
  // absolute values), |w - w0| / |w0|, largest |x - x0|, "limited".
  Json findings() const override;

  const Basis& basis() const { return basis_; }
  bool on_device() const { return device_basis_.has_value(); }
  const std::vector<double>& coefficients() const { return numbers_.at("coefficients"); }

 private:
  DeviceBasis::Projection project_gradient();
  void expand_change(std::span<const double> change);

  OptimConfig config_;
  ParamStore& store_;
  Basis basis_;
  std::optional<DeviceBasis> device_basis_;
  std::vector<double> begin_;  // x0
  double longest_ = 0;         // step of sgd; 0: no limit
  double lr_ = 0;              // of the step
  std::map<std::string, std::vector<double>> numbers_;
  std::map<std::string, Tensor> state_;
  GradientNorm norm_;
};

}  // namespace accrete
