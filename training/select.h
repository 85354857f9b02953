// Choosing one of several networks by what they reached and what they cost: AutoProg's criterion (arXiv 2203.14509).
//
// A power law loss ~ a2 cost^a1 is fitted to all candidates; with w = max(0, -a1) the candidate with the smallest loss
// * cost^w is chosen: the one that lies furthest below the trend, as a ratio. Units of cost and loss do not matter.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace accrete {

struct Scored {
  double loss = 0, cost = 0;  // both above 0
};

struct PowerLaw {
  double a1 = 0, a2 = 0;
};

// Least squares of the losses themselves (not of their logarithms): Gauss-Newton from the line through the logarithms.
// Needs two different costs; where Gauss-Newton does not improve on it, the line itself.
PowerLaw fit_power_law(std::span<const Scored> candidates);

struct Selection {
  size_t index = 0;
  double w = 0;
  std::optional<PowerLaw> fit;
  std::vector<double> scores;
  std::string why;
};

// With fewer than three candidates or three different costs a fit says nothing (two points always lie on the curve and
// the scores tie): the exponent is then `w_before`. `w`: no fit, this exponent. Ties go to the first. Error for losses
// and costs that are not above 0.
Selection choose(std::span<const Scored> candidates, std::optional<double> w, double w_before);

}  // namespace accrete
