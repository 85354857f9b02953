#include "data/rand_augment.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include "engine/core/error.h"

namespace accrete {

namespace {

using Op = RandAugment::Op;

struct Weighted {
  Op op;
  double weight;
};
// timm's lists "3aw" and "weights".
constexpr Weighted kThreeWeighted[] = {
    {Op::solarize, 6}, {Op::desaturate, 6}, {Op::gaussian_blur, 6}, {Op::rotate, 3}, {Op::shear_x, 2},
    {Op::shear_y, 2},  {Op::posterize, 1},  {Op::auto_contrast, 1}, {Op::color, 1},  {Op::sharpness, 1},
    {Op::contrast, 1}, {Op::brightness, 1}, {Op::equalize, 1},      {Op::invert, 1},
};
constexpr Weighted kWeighted[] = {
    {Op::rotate, 3},      {Op::shear_x, 2},         {Op::shear_y, 2},      {Op::translate_x, 1},
    {Op::translate_y, 1}, {Op::color, 0.25},        {Op::sharpness, 0.25}, {Op::auto_contrast, 0.25},
    {Op::solarize, 0.05}, {Op::solarize_add, 0.05}, {Op::contrast, 0.05},  {Op::brightness, 0.05},
    {Op::equalize, 0.05}, {Op::posterize, 0.05},    {Op::invert, 0.05},
};

double number(std::string_view text, const std::string& part, const std::string& whole) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= 0, "augment",
        "the part \"", part, "\" of \"", whole, "\" has no number; expected for instance m9, n2, mstd0.5, inc1");
  return value;
}

}  // namespace

RandAugment::RandAugment(const std::string& text) {
  for (int i = 0; i <= static_cast<int>(Op::translate_y); ++i) ops.push_back(static_cast<Op>(i));
  const auto use = [&](const auto& list) {
    ops.clear(), weights.clear(), increasing = true;
    for (const Weighted& w : list) ops.push_back(w.op), weights.push_back(w.weight);
  };
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == '-')
      parts.emplace_back();
    else
      parts.back() += c;
  check(parts[0] == "rand", "augment", "unknown policy \"", text,
        "\"; expected rand-..., for instance rand-m9-mstd0.5-inc1, or three");
  std::string list;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    const size_t digits = std::min(part.find_first_of("0123456789"), part.size());
    const std::string key = part.substr(0, digits);
    const std::string_view rest = std::string_view(part).substr(digits);
    if (part == "tweights" || part == "t3a" || part == "t3aw") {
      list = part;
    } else if (key == "m") {
      magnitude = number(rest, part, text);
    } else if (key == "n") {
      count = static_cast<int64_t>(number(rest, part, text));
      check(rest.find('.') == rest.npos && count >= 1 && count <= 100, "augment", "the number of operations in \"",
            text, "\" must be a whole number from 1 to 100; got ", rest);
    } else if (key == "p") {
      probability = number(rest, part, text);
      check(probability <= 1, "augment", "the probability in \"", text, "\" must be 0..1; got ", probability);
    } else if (key == "mstd") {
      deviation = number(rest, part, text);
      if (deviation > 100) deviation = std::numeric_limits<double>::infinity();
    } else if (key == "mmax") {
      largest = number(rest, part, text);
      check(largest > 0, "augment", "the bound of the magnitude in \"", text, "\" must be above 0");
    } else if (key == "inc") {
      // timm asks only whether a text follows, so inc0 turns it on as inc1 does; whoever copies a string from there
      // must get the same operations.
      number(rest, part, text);
      increasing = true;
    } else {
      fail("augment", "unknown part \"", part, "\" in \"", text,
           "\"; expected m, n, p, mstd, mmax or inc and a number, or tweights, t3a, t3aw");
    }
  }
  if (list == "t3a") {
    ops = {Op::solarize, Op::desaturate, Op::gaussian_blur};
    increasing = true;
  } else if (list == "t3aw") {
    use(kThreeWeighted);
  } else if (list == "tweights") {
    use(kWeighted);
  }
  check(weights.empty() || count <= static_cast<int64_t>(ops.size()), "augment", "\"", text, "\" draws ", count,
        " different operations from a list of ", ops.size());
}

void RandAugment::operator()(Image& image, Draws& draws, const Surroundings& surroundings) const {
  std::vector<double> left = weights;
  for (int64_t i = 0; i < count; ++i) {
    size_t chosen = 0;
    if (left.empty()) {
      chosen = static_cast<size_t>(draws.below(static_cast<int64_t>(ops.size())));
    } else {
      double total = 0;
      for (const double w : left) total += w;
      double place = draws.uniform() * total;
      for (size_t k = 0; k < left.size(); ++k) {
        if (left[k] <= 0) continue;
        chosen = k;
        if ((place -= left[k]) < 0) break;
      }
      left[chosen] = 0;
    }
    if (!draws.chance(probability)) continue;
    double m = magnitude;
    if (std::isinf(deviation))
      m = draws.uniform(0, magnitude);
    else if (deviation > 0)
      m += deviation * draws.normal();
    apply(ops[chosen], std::clamp(m, 0.0, largest), image, draws, surroundings);
  }
}

void RandAugment::apply(Op op, double m, Image& image, Draws& draws, const Surroundings& s) const {
  const double u = m / 10.0;
  const auto negated = [&](double v) { return draws.chance(0.5) ? -v : v; };
  // Strength of a blend; 1 changes nothing.
  const auto factor = [&] { return increasing ? std::max(0.1, 1.0 + negated(u * 0.9)) : u * 1.8 + 0.1; };
  const auto filter = [&] {
    return !s.filters ? s.filter : s.filters->chance(0.5) ? Filter::bilinear : Filter::bicubic;
  };
  const auto move = [&](const pixels::Affine& m6) { image = pixels::transform(image, m6, filter(), s.fill); };
  switch (op) {
    case Op::auto_contrast:
      return pixels::autocontrast(image);
    case Op::equalize:
      return pixels::equalize(image);
    case Op::invert:
      return pixels::invert(image);
    case Op::rotate: {
      const double degrees = negated(u * 30.0);
      image = pixels::rotate(image, degrees, filter(), s.fill);
      return;
    }
    case Op::posterize: {
      const int bits = static_cast<int>(u * 4);
      return pixels::posterize(image, increasing ? 4 - bits : bits);
    }
    case Op::solarize: {
      const int threshold = std::min(256, static_cast<int>(u * 256));
      return pixels::solarize(image, increasing ? 256 - threshold : threshold);
    }
    case Op::solarize_add:
      return pixels::solarize_add(image, std::min(128, static_cast<int>(u * 110)));
    case Op::color:
      return pixels::adjust_color(image, factor());
    case Op::contrast:
      return pixels::adjust_contrast(image, factor());
    case Op::brightness:
      return pixels::adjust_brightness(image, factor());
    case Op::sharpness:
      return pixels::adjust_sharpness(image, factor());
    case Op::shear_x:
      return move({1, negated(u * 0.3), 0, 0, 1, 0});
    case Op::shear_y:
      return move({1, 0, 0, negated(u * 0.3), 1, 0});
    case Op::translate_x:
      return move({1, 0, negated(u * 0.45) * static_cast<double>(image.width), 0, 1, 0});
    case Op::translate_y:
      return move({1, 0, 0, 0, 1, negated(u * 0.45) * static_cast<double>(image.height)});
    case Op::desaturate: {
      const double grey = std::clamp(0.5 + 0.5 * u, 0.5, 1.0);
      return pixels::adjust_color(image, std::clamp(1.0 - grey, 0.0, 1.0));
    }
    case Op::gaussian_blur:
      return pixels::gaussian_blur(image, std::clamp(0.1 + 1.9 * u, 0.1, 2.0));
  }
}

}  // namespace accrete
