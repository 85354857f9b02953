#include "training/subspace.h"

#include <algorithm>
#include <cmath>

namespace accrete {

Subspace::Subspace(const OptimConfig& config, ParamStore& store, Basis basis, std::span<const double> alpha,
                   double reach, int64_t room)
    : config_(config),
      store_(store),
      basis_(std::move(basis)),
      begin_(basis_.coefficients_of(alpha)),
      longest_(reach * basis_.report().spread),
      norm_(store.device()) {
  check(config.name == "sgd" || config.name == "adamw", "subspace", "coefficients are stepped by sgd or adamw; got ",
        config.name);
  if (!store.grads().defined()) store.zero_grads();
  const SegmentScope segment(Segment::optimizer);
  state_["start"] = store.values().clone();
  numbers_["coefficients"] = begin_;
  for (const char* moment : {"momentum", "m", "v"})
    if ((config.name == "sgd") == (moment == std::string("momentum"))) numbers_[moment].assign(begin_.size(), 0.0);
  numbers_["count"] = {0};
  numbers_["limited"] = {0};
  if (!store.device().queued() || DeviceBasis::bytes(basis_) > room) return;
  try {
    device_basis_.emplace(basis_, store.device());
  } catch (const OutOfMemory&) {
    // The way over the host remains.
  }
}

DeviceBasis::Projection Subspace::project_gradient() {
  if (device_basis_) return device_basis_->project(store_.grads(), norm_.factor());
  DeviceBasis::Projection p{.factor = static_cast<double>(norm_.factor().item())};
  if (std::isfinite(p.factor)) p.gradient = project(basis_, store_.grads().on_host());
  return p;
}

void Subspace::expand_change(std::span<const double> change) {
  const Tensor& start = state_.at("start");
  if (device_basis_) return device_basis_->expand(store_.values(), start, change);
  if (store_.device() == kCpu) return expand(basis_, store_.values(), start, change);
  const Tensor values = store_.values().to(kCpu);  // what is in no block (running statistics) stays as it is
  expand(basis_, values, start.to(kCpu), change);
  store_.values().copy_from(values);
}

void Subspace::prepare(double lr, const BlockSet& skip) {
  check(skip.groups.empty(), "subspace", "a step in a subspace takes all blocks");
  lr_ = lr;
}

void Subspace::apply() {
  const double lr = lr_;
  auto [clip, g] = project_gradient();
  if (!std::isfinite(clip)) return;  // the gradients are not finite
  std::vector<double>& x = numbers_.at("coefficients");
  const double t = ++numbers_.at("count")[0];
  if (config_.name == "sgd") {
    std::vector<double>& m = numbers_.at("momentum");
    double length = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      m[i] = config_.momentum * m[i] + (clip * g[i] + config_.weight_decay * x[i]);
      length += lr * m[i] * lr * m[i];
    }
    length = std::sqrt(length);
    const bool limited = longest_ > 0 && length > longest_;
    numbers_.at("limited")[0] += limited;
    for (size_t i = 0; i < x.size(); ++i) {
      if (limited) m[i] *= longest_ / length;
      x[i] -= lr * m[i];
    }
  } else {
    std::vector<double>&m = numbers_.at("m"), &v = numbers_.at("v");
    const double b1 = config_.beta1, b2 = config_.beta2, c1 = 1 - std::pow(b1, t), c2 = 1 - std::pow(b2, t);
    for (size_t i = 0; i < x.size(); ++i) {
      g[i] *= clip;
      m[i] = b1 * m[i] + (1 - b1) * g[i];
      v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
      x[i] -= lr * (config_.weight_decay * x[i] + m[i] / c1 / (std::sqrt(v[i] / c2) + config_.eps));
    }
  }
  for (size_t i = 0; i < g.size(); ++i) g[i] = x[i] - begin_[i];
  expand_change(g);
  store_.refresh();
}

void Subspace::set_numbers(const std::map<std::string, std::vector<double>>& numbers) {
  for (auto& [name, mine] : numbers_) {
    const auto given = numbers.find(name);
    check(given != numbers.end() && given->second.size() == mine.size(), "subspace", "expected \"", name, "\" of ",
          mine.size(), " numbers");
    mine = given->second;
  }
}

Json Subspace::findings() const {
  const std::vector<double>& x = coefficients();
  const std::vector<double> alpha = basis_.alpha_of(x);
  double sum = 0, size = 0, furthest = 0, moved = 0, length = 0;
  for (const double a : alpha) sum += a, size += std::fabs(a);
  for (size_t i = 0; i < x.size(); ++i) furthest = std::max(furthest, std::fabs(x[i] - begin_[i]));
  const Tensor now = store_.values().on_host(), start = state_.at("start").on_host();
  for (int64_t k = 0; k < now.count(); ++k) {
    const double s = start.ptr<float>()[k], d = now.ptr<float>()[k] - s;
    moved += d * d, length += s * s;
  }
  const double blocks = std::max(1, basis_.blocks());
  return Json{{"event", "average"},
              {"alpha_min", alpha.empty() ? 0 : *std::min_element(alpha.begin(), alpha.end())},
              {"alpha_max", alpha.empty() ? 0 : *std::max_element(alpha.begin(), alpha.end())},
              {"alpha_sum", sum / blocks},
              {"alpha_l1", size / blocks},
              {"moved", length > 0 ? std::sqrt(moved / length) : 0},
              {"furthest", furthest},
              {"limited", numbers_.at("limited")[0]}};
}

}  // namespace accrete
