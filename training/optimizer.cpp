#include "training/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/ops/ops.h"

namespace accrete {

Optimizer::Optimizer(const OptimConfig& config, ParamStore& store, const std::map<std::string, double>& averages)
    : config_(config), store_(store), decays_(averages), steps_(store.entries().size(), 0.0), norm_(store.device()) {
  if (!store.grads().defined()) store.zero_grads();
  lr_scales_ = layer_scales();
  ranges_ = make_ranges({});
  const SegmentScope segment(Segment::optimizer);
  if (config.name == "adamw") table_ = std::make_unique<StepTable>(store, lr_scales_);
  const Shape flat{store.flat_count()};
  const auto make = [&](const char* name) { state_[name] = Tensor::zeros(flat, DType::f32, store.device()); };
  const std::string& n = config.name;
  if (n == "adamw" || n == "lamb" || n == "muon") make("m"), make("v");
  if (n == "lion") make("m");
  if (n == "sgd" || n == "lars") make("momentum");
  if (config.ema > 0) decays_["ema"] = config.ema;
  for (const auto& [name, decay] : decays_) make(name.c_str());
  reset_averages();
  int64_t largest = 0;
  for (const Range& r : ranges_) largest = std::max(largest, r.count);
  if (one_by_one()) scratch_ = Tensor::empty(Shape{largest}, DType::f32, store.device());
  norms_ = Tensor::zeros(Shape{2}, DType::f32, store.device());
}

// The padding between entries is zero in values and gradients and stays zero under every rule.
std::vector<Optimizer::Range> Optimizer::make_ranges(const BlockSet& skip) const {
  std::vector<Range> ranges;
  const bool single = one_by_one();
  const auto& entries = store_.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const ParamEntry& e = entries[i];
    if (!e.trainable || skip.contains(e.group, e.block)) continue;
    const int64_t end = i + 1 < entries.size() ? entries[i + 1].offset : store_.flat_count();
    const bool matrix = config_.name == "muon" && e.shape.rank() == 2 && e.block >= 0;
    if (!single && !ranges.empty()) {
      Range& last = ranges.back();
      const bool equal = last.decay == e.decay && last.lr_scale == lr_scales_[i] &&
                         steps_[static_cast<size_t>(last.entry)] == steps_[i];
      if (last.begin + last.count == e.offset && equal) {
        last.count = end - last.begin;
        continue;
      }
    }
    ranges.push_back(
        {e.offset, single ? e.count() : end - e.offset, e.decay, matrix, lr_scales_[i], static_cast<int>(i)});
  }
  return ranges;
}

std::vector<float> Optimizer::layer_scales() const {
  const auto& entries = store_.entries();
  int blocks = 0;
  for (const ParamEntry& e : entries) blocks = std::max(blocks, e.number + 1);
  std::vector<float> scales;
  int before = 0;  // blocks declared so far
  for (const ParamEntry& e : entries) {
    before = std::max(before, e.number + 1);
    const int layer = e.block >= 0 ? e.number + 1 : e.last ? blocks + 1 : before;
    scales.push_back(static_cast<float>(std::pow(config_.layer_decay, blocks + 1 - layer)));
  }
  return scales;
}

std::map<std::string, std::vector<double>> Optimizer::numbers() const {
  std::vector<double> all = steps_;
  const std::vector<int32_t> counted = table_ ? table_->steps() : std::vector<int32_t>{};
  for (size_t k = 0; k < counted.size(); ++k) {
    const StepTable::Part& part = table_->parts()[k];
    for (size_t i = static_cast<size_t>(part.entry); i < all.size() && store_.entries()[i].offset < part.end; ++i)
      all[i] = counted[k];
  }
  return {{"steps", all}};
}

void Optimizer::set_numbers(const std::map<std::string, std::vector<double>>& numbers) {
  const auto steps = numbers.find("steps");
  check(steps != numbers.end() && steps->second.size() == steps_.size(), "optimizer", "expected \"steps\" of ",
        steps_.size(), " parameters");
  for (const double n : steps->second)
    check(n >= 0 && n <= std::numeric_limits<int32_t>::max(), "optimizer", "a parameter has taken ", n,
          " steps; expected 0 to 2^31 - 1");
  steps_ = steps->second;
  if (table_) {
    std::vector<int32_t> counts(table_->parts().size());
    for (size_t k = 0; k < counts.size(); ++k)
      counts[k] = static_cast<int32_t>(steps_[static_cast<size_t>(table_->parts()[k].entry)]);
    table_->set_steps(counts);
  }
  ranges_ = make_ranges({});
}

Tensor Optimizer::average(const std::string& name) const {
  const auto it = decays_.contains(name) ? state_.find(name) : state_.end();
  return it == state_.end() ? Tensor() : it->second;
}

void Optimizer::reset_averages() {
  for (const auto& [name, decay] : decays_) state_.at(name).copy_from(store_.values());
}

void Optimizer::prepare(double lr, const BlockSet& skip) {
  lr_ = lr;
  if (table_) {
    send_rates(lr, skip);
  } else {
    // A step whose gradients are not finite counts too: on a queued device that is known one step later, or at once
    // where the run is saved in between, and a resumed run must have the same bits.
    for (size_t i = 0; i < steps_.size(); ++i) {
      const ParamEntry& e = store_.entries()[i];
      if (e.trainable && !skip.contains(e.group, e.block)) ++steps_[i];
    }
    // Counts of steps that drift apart cut the ranges anew.
    const bool uneven = !skip.groups.empty() || !even_;
    if (uneven) ranges_ = make_ranges(skip);
    even_ = skip.groups.empty();
  }
  store_.values().bump_version("optimizer");
  store_.copy().bump_version("optimizer");
}

void Optimizer::apply() {
  if (table_) {
    update::AdamWSettings s;
    s.beta1 = static_cast<float>(config_.beta1), s.beta2 = static_cast<float>(config_.beta2);
    s.eps = static_cast<float>(config_.eps);
    s.bias_correction = config_.bias_correction;
    table_->step(store_.values(), store_.copy(), state_.at("m"), state_.at("v"), store_.grads(), norm_.factor(), s);
  } else {
    step_ranges(lr_);
  }
  for (const auto& [name, decay] : decays_)
    update::ema(state_.at(name), store_.values(), norm_.factor(), static_cast<float>(decay));
}

void Optimizer::step_ranges(double lr) {
  for (const Range& r : ranges_) {
    const double mine = lr * static_cast<double>(r.lr_scale);
    if (config_.name == "lamb")
      step_lamb(r, mine);
    else if (config_.name == "lars")
      step_lars(r, mine);
    else if (r.matrix)
      step_muon(r, mine);
    else
      step_elementwise(r, mine);
  }
}

Optimizer::View Optimizer::view(const Range& r) const {
  const Tensor& copy = store_.copy();
  return {store_.values().flat(r.begin, r.count), copy.defined() ? copy.flat(r.begin, r.count) : Tensor(),
          store_.grads().flat(r.begin, r.count), static_cast<float>(r.decay ? config_.weight_decay : 0.0)};
}

Tensor Optimizer::moment(const char* name, const Range& r) const { return state_.at(name).flat(r.begin, r.count); }

update::AdamWSettings Optimizer::adam_settings(const Range& r, double lr, float weight_decay) const {
  update::AdamWSettings s;
  s.lr = static_cast<float>(lr);
  s.beta1 = static_cast<float>(config_.beta1);
  s.beta2 = static_cast<float>(config_.beta2);
  s.eps = static_cast<float>(config_.eps);
  s.weight_decay = weight_decay;
  s.bias_correction = config_.bias_correction;
  s.step = steps_of(r);
  return s;
}

void Optimizer::send_rates(double lr, const BlockSet& skip) {
  std::vector<kernels::StepRate> rates;
  for (const StepTable::Part& part : table_->parts()) {
    const ParamEntry& e = store_.entries()[static_cast<size_t>(part.entry)];
    const double mine = skip.contains(e.group, e.block) ? std::nan("") : lr * static_cast<double>(part.lr_scale);
    rates.push_back({static_cast<float>(mine), static_cast<float>(part.decay ? config_.weight_decay : 0.0)});
  }
  table_->send(rates);
}

void Optimizer::step_elementwise(const Range& r, double lr) {
  const auto [p, copy, g, decay] = view(r);
  if (config_.name == "sgd") {
    update::sgd(p, copy, moment("momentum", r), g, norm_.factor(), static_cast<float>(lr),
                static_cast<float>(config_.momentum), decay, config_.nesterov);
  } else if (config_.name == "lion") {
    update::lion(p, copy, moment("m", r), g, norm_.factor(), static_cast<float>(lr), static_cast<float>(config_.beta1),
                 static_cast<float>(config_.beta2), decay);
  } else {
    // What muon leaves over follows the same schedule from its own peak.
    const bool own_peak = config_.name == "muon" && config_.adam_lr > 0 && config_.lr > 0;
    update::adamw(p, copy, moment("m", r), moment("v", r), g, norm_.factor(),
                  adam_settings(r, own_peak ? lr * config_.adam_lr / config_.lr : lr, decay));
  }
}

void Optimizer::step_lamb(const Range& r, double lr) {
  const auto [p, copy, g, decay] = view(r);
  const Tensor u = scratch_.flat(0, r.count), p_norm2 = norms_.flat(0, 1), u_norm2 = norms_.flat(1, 1);
  update::lamb_direction(u, moment("m", r), moment("v", r), p, g, norm_.factor(), adam_settings(r, lr, decay));
  update::sum_of_squares(p_norm2, p);
  update::sum_of_squares(u_norm2, u);
  update::lamb_apply(p, copy, u, p_norm2, u_norm2, norm_.factor(), static_cast<float>(lr),
                     config_.trust_all || decay > 0);
}

// As the linear probes of MAE use it: the trust ratio is applied before the momentum, to matrices only.
void Optimizer::step_lars(const Range& r, double lr) {
  const auto [p, copy, g, decay] = view(r);
  const Tensor u = scratch_.flat(0, r.count), p_norm2 = norms_.flat(0, 1), u_norm2 = norms_.flat(1, 1);
  update::lars_direction(u, p, g, norm_.factor(), decay);
  update::sum_of_squares(p_norm2, p);
  update::sum_of_squares(u_norm2, u);
  update::lars_apply(p, copy, moment("momentum", r), u, p_norm2, u_norm2, norm_.factor(), static_cast<float>(lr),
                     static_cast<float>(config_.momentum), static_cast<float>(config_.trust),
                     config_.trust_all || r.decay);
}

// Muon (Jordan 2024): the momentum matrix is replaced by its nearest semi-orthogonal matrix, approximated by the
// quintic Newton-Schulz iteration X <- a X + (b A + c A A) X, A = X X^T, with (a, b, c) = (3.4445, -4.7750, 2.0315), in
// f32. The update is scaled by 0.2 sqrt(max(rows, cols)), which gives it the size of an AdamW update (Liu et al. 2025).
void Optimizer::step_muon(const Range& r, double lr) {
  const NoGrad quiet;
  const Shape shape = store_.entries()[static_cast<size_t>(r.entry)].shape;
  const auto [p, copy, g, decay] = view(r);
  const Tensor u = scratch_.flat(0, r.count), norm2 = norms_.flat(0, 1);
  update::muon_momentum(u, moment("m", r), g, norm_.factor(), static_cast<float>(config_.momentum), config_.nesterov);
  update::sum_of_squares(norm2, u);
  update::scale_by_inverse_norm(u, u, norm2, 1e-7f);
  const bool tall = shape[0] > shape[1];
  Tensor x = u.view(shape);
  if (tall) x = ops::transpose(x);  // rows <= cols: the small Gram matrix
  for (int64_t i = 0; i < config_.newton_schulz_steps; ++i) {
    const Tensor a = ops::matmul(x, x, false, true);
    const Tensor b = ops::add(ops::scale(a, -4.7750f), ops::scale(ops::matmul(a, a), 2.0315f));
    x = ops::add(ops::scale(x, 3.4445f), ops::matmul(b, x));
  }
  if (tall) x = ops::transpose(x);
  const float size = 0.2f * std::sqrt(static_cast<float>(std::max(shape[0], shape[1])));
  update::decayed_axpy(p, copy, x.view(Shape{r.count}), norm_.factor(), static_cast<float>(lr), size, decay);
}

}  // namespace accrete
