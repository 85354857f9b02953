#include "training/select.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/core/error.h"

namespace accrete {
namespace {

double squared_errors(std::span<const Scored> candidates, const PowerLaw& law) {
  double sum = 0;
  for (const Scored& c : candidates) {
    const double r = c.loss - law.a2 * std::pow(c.cost, law.a1);
    sum += r * r;
  }
  return sum;
}

PowerLaw line_of_logarithms(std::span<const Scored> candidates) {
  const double n = static_cast<double>(candidates.size());
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (const Scored& c : candidates) {
    const double x = std::log(c.cost), y = std::log(c.loss);
    sx += x, sy += y, sxx += x * x, sxy += x * y;
  }
  const double a1 = (n * sxy - sx * sy) / (n * sxx - sx * sx);
  return {a1, std::exp((sy - a1 * sx) / n)};
}

// One step on the normal equations J^T J d = J^T r; nothing when they are singular.
std::optional<PowerLaw> gauss_newton(std::span<const Scored> candidates, const PowerLaw& law) {
  double j11 = 0, j12 = 0, j22 = 0, r1 = 0, r2 = 0;
  for (const Scored& c : candidates) {
    const double p = std::pow(c.cost, law.a1), d1 = law.a2 * p * std::log(c.cost), r = c.loss - law.a2 * p;
    j11 += d1 * d1, j12 += d1 * p, j22 += p * p;
    r1 += d1 * r, r2 += p * r;
  }
  const double determinant = j11 * j22 - j12 * j12;
  if (!(determinant > 0)) return std::nullopt;
  return PowerLaw{(j22 * r1 - j12 * r2) / determinant, (j11 * r2 - j12 * r1) / determinant};
}

}  // namespace

PowerLaw fit_power_law(std::span<const Scored> candidates) {
  // In units in which costs and losses are near 1, so that the equations are well conditioned.
  double log_cost = 0, log_loss = 0;
  for (const Scored& c : candidates) log_cost += std::log(c.cost), log_loss += std::log(c.loss);
  const double n = static_cast<double>(candidates.size());
  const double cost_unit = std::exp(log_cost / n), loss_unit = std::exp(log_loss / n);
  std::vector<Scored> scaled;
  for (const Scored& c : candidates) scaled.push_back({c.loss / loss_unit, c.cost / cost_unit});

  const PowerLaw line = line_of_logarithms(scaled);
  PowerLaw law = line;
  for (int i = 0; i < 100; ++i) {
    const auto step = gauss_newton(scaled, law);
    if (!step) break;
    law.a1 += step->a1, law.a2 += step->a2;
    if (!(std::abs(step->a1) + std::abs(step->a2) >= 1e-15)) break;
  }
  // Not where it ran away: the line is never far off.
  if (!(squared_errors(scaled, law) <= squared_errors(scaled, line)) || !std::isfinite(law.a1) || !(law.a2 > 0))
    law = line;
  return {law.a1, law.a2 * loss_unit * std::pow(cost_unit, -law.a1)};
}

Selection choose(std::span<const Scored> candidates, std::optional<double> w, double w_before) {
  check(!candidates.empty(), "select", "no candidate to choose from");
  std::set<double> costs;
  for (const Scored& c : candidates) {
    check(std::isfinite(c.loss) && std::isfinite(c.cost) && c.loss > 0 && c.cost > 0, "select",
          "losses and costs must be above 0; got loss ", c.loss, ", cost ", c.cost);
    costs.insert(c.cost);
  }
  Selection s;
  if (w) {
    s.w = *w;
    s.why = "smallest loss * cost^w, w as set";
  } else if (candidates.size() < 3 || costs.size() < 3) {
    s.w = w_before;
    s.why = "smallest loss * cost^w, w as before: too few candidates for a fit";
  } else {
    s.fit = fit_power_law(candidates);
    s.w = std::max(0.0, -s.fit->a1);
    s.why = s.w > 0 ? "furthest below the fitted trend of loss over cost" : "smallest loss: larger networks are worse";
  }
  for (const Scored& c : candidates) s.scores.push_back(c.loss * std::pow(c.cost, s.w));
  s.index = static_cast<size_t>(std::min_element(s.scores.begin(), s.scores.end()) - s.scores.begin());
  return s;
}

}  // namespace accrete
