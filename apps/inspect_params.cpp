// inspect params: what stands in the weights.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>

#include "apps/families.h"
#include "apps/inspect.h"
#include "models/registry.h"

namespace accrete {
namespace {

constexpr int kBins = 16;

struct Statistics {
  double min = 0, mean = 0, std = 0, max = 0, zeros = 0;  // zeros: share of exact zeros
  int64_t nonfinite = 0;
  int64_t bins[kBins] = {};  // from min to max in equal steps
};

Statistics statistics_of(const std::vector<float>& v) {
  Statistics s;
  double sum = 0, squares = 0;
  int64_t zeros = 0, count = 0;
  for (const float x : v) {
    if (!std::isfinite(x)) {
      ++s.nonfinite;
      continue;
    }
    s.min = count ? std::min<double>(s.min, x) : x;
    s.max = count ? std::max<double>(s.max, x) : x;
    sum += x;
    zeros += x == 0;
    ++count;
  }
  if (count == 0) return s;
  s.mean = sum / static_cast<double>(count);
  s.zeros = static_cast<double>(zeros) / static_cast<double>(count);
  for (const float x : v) {
    if (!std::isfinite(x)) continue;
    squares += (x - s.mean) * (x - s.mean);
    const double place = s.max > s.min ? (x - s.min) / (s.max - s.min) * kBins : 0;
    ++s.bins[std::min(kBins - 1, static_cast<int>(place))];
  }
  s.std = std::sqrt(squares / static_cast<double>(count));
  return s;
}

std::string histogram(const Statistics& s) {
  static constexpr const char* kBars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  int64_t top = 1;
  for (const int64_t n : s.bins) top = std::max(top, n);
  std::string out;
  for (const int64_t n : s.bins) {
    const double level = static_cast<double>(n) * 8 / static_cast<double>(top);
    out += kBars[n == 0 ? 0 : std::max(1, static_cast<int>(std::lround(level)))];
  }
  return out;
}

std::string roles_of(const ParamEntry& e) {
  std::string out;
  for (const Axis& a : e.axes) {
    out += out.empty() ? "" : ", ";
    if (a.parts > 1) out += std::to_string(a.parts) + "*";
    out += name_of(a.role);
    if (a.unit > 1) out += "*" + std::to_string(a.unit);
  }
  return out;
}

Json to_json(const Statistics& s) {
  Json j{{"min", s.min}, {"mean", s.mean}, {"std", s.std}, {"max", s.max}, {"zeros", s.zeros}};
  if (s.nonfinite > 0) j["nonfinite"] = s.nonfinite;
  j["histogram"] = std::vector<int64_t>(s.bins, s.bins + kBins);
  return j;
}

Json to_json(const ParamEntry& e, const Statistics& s) {
  Json j{{"name", e.name},     {"shape", e.shape.vector()}, {"axes", roles_of(e)},
         {"count", e.count()}, {"block", e.block},          {"decay", e.decay}};
  j.update(to_json(s));
  return j;
}

// Weights of a MODEL, or the fresh ones of a recipe.
std::unique_ptr<Model> open_weights(const std::string& path, const std::vector<std::string>& overrides) {
  if (path.ends_with(".json") && !path.ends_with(".index.json")) {
    const Recipe recipe = load_recipe(path, overrides, std::nullopt, family_of_recipe(path, overrides));
    auto model = make_model(recipe.family, recipe.model, DType::f32, kCpu);
    model->params().initialise(static_cast<uint64_t>(recipe.seed));
    return model;
  }
  check(overrides.empty(), "inspect", "settings (key=value) are for recipes; ", path, " is a model");
  return load_model(path, DType::f32, kCpu);
}

void print_one(const std::string& path, const Model& model, bool json) {
  const ParamStore& store = model.params();
  Json list = Json::array();
  if (!json)
    std::printf("%s: %s, %lld parameters in %zu tensors\n%-28s %-15s %-20s %9s %9s %9s %9s %6s  %s\n", path.c_str(),
                model.family().c_str(), static_cast<long long>(store.parameter_count()), store.entries().size(), "name",
                "shape", "axes", "min", "mean", "std", "max", "zeros", "histogram, min to max");
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const ParamEntry& e = store.entries()[i];
    const Statistics s = statistics_of(store.value(static_cast<int>(i)).to_vector<float>());
    if (json) {
      list.push_back(to_json(e, s));
      continue;
    }
    std::printf("%-28s %-15s %-20s %9.3g %9.2g %9.3g %9.3g %5.1f%%  |%s|%s\n", e.name.c_str(), text_of(e.shape).c_str(),
                roles_of(e).c_str(), s.min, s.mean, s.std, s.max, 100 * s.zeros, histogram(s).c_str(),
                s.nonfinite ? (" " + std::to_string(s.nonfinite) + " not finite").c_str() : "");
  }
  if (json)
    std::cout << Json{{"model", path},
                      {"family", model.family()},
                      {"config", model.config()},
                      {"parameters", store.parameter_count()},
                      {"params", list}}
                     .dump(2)
              << "\n";
}

struct Difference {
  double largest = 0, relative = 0, cosine = 0;  // |a - b|; |a - b|_2 / |a|_2
};

Difference difference(const std::vector<float>& a, const std::vector<float>& b) {
  Difference d;
  double aa = 0, bb = 0, ab = 0, dd = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    aa += x * x, bb += y * y, ab += x * y, dd += (x - y) * (x - y);
    d.largest = std::max(d.largest, std::abs(x - y));
  }
  d.relative = dd == 0 ? 0 : std::sqrt(dd / std::max(aa, 1e-300));
  d.cosine = dd == 0 ? 1 : ab / std::sqrt(std::max(aa * bb, 1e-300));
  return d;
}

void print_two(const std::vector<std::string>& paths, const Model& a, const Model& b, bool json) {
  const ParamStore &sa = a.params(), &sb = b.params();
  Json list = Json::array();
  int64_t same = 0, differ = 0;
  std::vector<std::string> apart;
  if (!json)
    std::printf("A %s\nB %s\n%-28s %-15s %9s %9s  %-18s %-18s %9s %9s %8s\n", paths[0].c_str(), paths[1].c_str(),
                "name", "shape", "std A", "std B", "histogram A", "histogram B", "max diff", "relative", "cosine");
  for (size_t i = 0; i < sa.entries().size(); ++i) {
    const ParamEntry& e = sa.entries()[i];
    const int k = sb.find(e.name);
    if (k < 0 || sb.entries()[static_cast<size_t>(k)].shape != e.shape) {
      apart.push_back(k < 0 ? "only in A: " + e.name + " " + text_of(e.shape)
                            : e.name + " is " + text_of(e.shape) + " in A, " +
                                  text_of(sb.entries()[static_cast<size_t>(k)].shape) + " in B");
      continue;
    }
    const auto va = sa.value(static_cast<int>(i)).to_vector<float>(), vb = sb.value(k).to_vector<float>();
    const Statistics ta = statistics_of(va), tb = statistics_of(vb);
    const Difference d = difference(va, vb);
    (d.largest == 0 ? same : differ)++;
    list.push_back(Json{{"name", e.name},
                        {"shape", e.shape.vector()},
                        {"a", to_json(ta)},
                        {"b", to_json(tb)},
                        {"max_difference", d.largest},
                        {"relative_difference", d.relative},
                        {"cosine", d.cosine}});
    if (!json)
      std::printf("%-28s %-15s %9.3g %9.3g  |%s| |%s| %9.3g %9.3g %8.5f\n", e.name.c_str(), text_of(e.shape).c_str(),
                  ta.std, tb.std, histogram(ta).c_str(), histogram(tb).c_str(), d.largest, d.relative, d.cosine);
  }
  for (const ParamEntry& e : sb.entries())
    if (sa.find(e.name) < 0) apart.push_back("only in B: " + e.name + " " + text_of(e.shape));
  if (json) {
    std::cout << Json{{"a", paths[0]},       {"b", paths[1]},  {"equal", same},
                      {"different", differ}, {"apart", apart}, {"params", list}}
                     .dump(2)
              << "\n";
    return;
  }
  for (const std::string& line : apart) std::printf("%s\n", line.c_str());
  std::printf("%lld tensors equal, %lld different, %zu without a partner\n", static_cast<long long>(same),
              static_cast<long long>(differ), apart.size());
}

}  // namespace

void inspect_params(const std::vector<std::string>& models, const std::vector<std::string>& overrides, bool json) {
  const auto a = open_weights(models[0], overrides);
  if (models.size() == 1) return print_one(models[0], *a, json);
  const auto b = open_weights(models[1], overrides);
  print_two(models, *a, *b, json);
}

}  // namespace accrete
