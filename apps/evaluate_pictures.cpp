// evaluate on pictures: loss, top-1 and top-5, by class, and which classes are taken for which.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <numeric>
#include <set>

#include "apps/ceilings.h"
#include "apps/evaluate.h"
#include "apps/vit_family.h"
#include "data/loader.h"
#include "engine/core/file.h"
#include "engine/core/transfer.h"
#include "models/image_model.h"
#include "models/picture_info.h"
#include "models/registry.h"
#include "training/progress.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

struct Counts {
  EvalSums sums;
  int64_t unreadable = 0;
  std::map<std::pair<int64_t, int64_t>, int64_t> confusion;  // true class, predicted class -> pictures
  double seconds = 0, flops = 0;
};

// How pictures were prepared for this model: a run says it in its recipe, a folder of another library in its config.
ImageConfig image_config(const EvaluateOptions& o) {
  ImageConfig config;
  const ModelPlace place = find_model(o.model);
  const fs::path run = run_of(place);
  if (!run.empty()) {
    const fs::path file = run / "config.json";
    check(fs::exists(file) || o.crop_pct > 0, "evaluate", file.string(), " is missing, which tells how ", o.model,
          " saw its pictures; hint: keep the checkpoint in its run, or say --crop-pct");
    const Json json = fs::exists(file) ? read_json(file) : Json::object();
    if (json.contains("recipe") && json["recipe"].contains("data") && json["recipe"]["data"].contains("images"))
      from_json(config, json["recipe"]["data"]["images"], "data.images", file.string());
  } else if (const fs::path folder = find_picture_info(o.model); !folder.empty()) {
    const PictureInfo info = read_picture_info(folder);
    config.mean = info.mean;
    config.stddev = info.stddev;
    config.crop_pct = info.crop_pct;
    config.interpolation = info.interpolation;
  }
  if (o.crop_pct > 0) config.crop_pct = o.crop_pct;
  config.token_labels.clear();
  return config;
}

// The same names in another order mean other numbers: nothing that is counted would be true. Other names altogether
// may be another library's for the same classes.
void check_classes(const EvaluateOptions& o, const std::vector<std::string>& ours) {
  const fs::path folder = find_picture_info(o.model);
  if (folder.empty()) return;
  const std::vector<std::string> theirs = read_picture_info(folder).class_names;
  if (theirs.size() != ours.size() || theirs == ours) return;
  const std::set<std::string> a(theirs.begin(), theirs.end()), b(ours.begin(), ours.end());
  const auto differs = std::mismatch(theirs.begin(), theirs.end(), ours.begin());
  check(a != b, "evaluate", "class ", differs.first - theirs.begin(), " of the model is \"", printable(*differs.first),
        "\"; that of ", o.data, " is \"", printable(*differs.second), "\"; expected the same order of classes");
  if (std::any_of(b.begin(), b.end(), [&](const std::string& name) { return a.contains(name); }))
    o.report.log("some classes of " + o.data + " have other names than those of the model");
}

Counts run_model(const EvaluateOptions& o, const ImageModel& model, const std::shared_ptr<const ImageSource>& source,
                 int64_t size) {
  Counts c;
  const int64_t classes = model.classes(), pictures = source->epoch_samples();
  Progress::Options screen = terminal_options();
  screen.quiet = o.report.quiet;
  Progress progress(std::cerr, screen);
  ProgressState state;
  state.steps = (pictures + size - 1) / size;
  if (o.batches > 0) state.steps = std::min(state.steps, o.batches);
  state.rate_unit = "img/s";
  Loader loader(source, 0, size, size, 1);
  BatchFeed feed(model.params().device());
  const double begin = now_seconds();
  Tape tape;
  const NoGrad quiet;
  for (int64_t i = 0; i < state.steps; ++i) {
    const Batch batch = feed(loader.next());
    const Tensor logits = model.logits(batch, Context{});
    const auto values = logits.to_vector<float>();
    const auto targets = batch.targets.to_vector<int32_t>();
    for (const float l : ops::token_losses(logits, batch.targets).to_vector<float>()) c.sums.loss += l;
    c.sums.top1 += hits(values, targets, classes, 1);
    c.sums.top5 += hits(values, targets, classes, 5);
    // The last batch may reach beyond the data: those samples have no target.
    const int64_t rows = std::min(size, pictures - i * size);
    for (int64_t b = 0; b < rows; ++b) {
      const int32_t t = targets[static_cast<size_t>(b)];
      if (t < 0) {
        ++c.unreadable;
        continue;
      }
      ++c.sums.count;
      const auto row = values.begin() + b * classes;
      ++c.confusion[{t, std::max_element(row, row + classes) - row}];
    }
    c.seconds = now_seconds() - begin;
    state.step = i + 1;
    state.loss = c.sums.loss / static_cast<double>(std::max<int64_t>(1, c.sums.count));
    state.step_seconds = c.seconds / static_cast<double>(i + 1);
    state.rate = static_cast<double>(c.sums.count) / c.seconds;
    state.eta_seconds = state.step_seconds * static_cast<double>(state.steps - i - 1);
    progress.update(state, begin + c.seconds);
  }
  c.flops = tape.total_flops();
  check(c.sums.count > 0, "evaluate", "no picture of the split could be read");
  return c;
}

// Recall and precision of each class.
Json by_class(const Counts& c, const std::vector<std::string>& names) {
  std::vector<int64_t> pictures(names.size(), 0), predicted = pictures, right = pictures;
  for (const auto& [cell, count] : c.confusion) {
    const auto t = static_cast<size_t>(cell.first), p = static_cast<size_t>(cell.second);
    pictures[t] += count, predicted[p] += count;
    if (t == p) right[t] = count;
  }
  const auto share = [](int64_t part, int64_t all) {
    return all > 0 ? Json(static_cast<double>(part) / static_cast<double>(all)) : Json();
  };
  Json list = Json::array();
  for (size_t k = 0; k < names.size(); ++k)
    list.push_back(Json{{"class", k},
                        {"name", names[k]},
                        {"pictures", pictures[k]},
                        {"top1", share(right[k], pictures[k])},
                        {"precision", share(right[k], predicted[k])}});
  return list;
}

// The most frequent mistakes.
Json mistakes(const Counts& c, const std::vector<std::string>& names, size_t count) {
  std::vector<std::pair<std::pair<int64_t, int64_t>, int64_t>> cells;
  for (const auto& cell : c.confusion)
    if (cell.first.first != cell.first.second) cells.push_back(cell);
  std::stable_sort(cells.begin(), cells.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  cells.resize(std::min(count, cells.size()));
  Json list = Json::array();
  for (const auto& [cell, pictures] : cells)
    list.push_back(Json{{"true", names[static_cast<size_t>(cell.first)]},
                        {"predicted", names[static_cast<size_t>(cell.second)]},
                        {"pictures", pictures}});
  return list;
}

// A name as a field of a CSV file.
std::string csv(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char ch : text) quoted += ch == '"' ? std::string("\"\"") : std::string(1, ch);
  return quoted + "\"";
}

void write_confusion(const fs::path& path, const Counts& c, const std::vector<std::string>& names) {
  std::string text = "true \\ predicted";
  for (const std::string& name : names) text += "," + csv(name);
  text += "\n";
  for (size_t i = 0; i < names.size(); ++i) {
    text += csv(names[i]);
    for (size_t j = 0; j < names.size(); ++j) {
      const auto cell = c.confusion.find({static_cast<int64_t>(i), static_cast<int64_t>(j)});
      text += "," + std::to_string(cell == c.confusion.end() ? 0 : cell->second);
    }
    text += "\n";
  }
  write_text(path, text);
}

std::string percent(const Json& share) {
  char text[32] = "-";
  if (share.is_number()) std::snprintf(text, sizeof text, "%.2f %%", 100 * share.get<double>());
  return text;
}

void print_text(const EvaluateOptions& o, const Json& j) {
  std::printf("data       %s, %s: %lld pictures at %lld px (crop %.3f)", o.data.c_str(), o.split.c_str(),
              static_cast<long long>(j["pictures"].get<int64_t>()),
              static_cast<long long>(j["resolution"].get<int64_t>()), j["crop_pct"].get<double>());
  if (j["unreadable"] > 0) std::printf("; %s unreadable, not counted", j["unreadable"].dump().c_str());
  std::printf("\nloss       %.5f\n", j["loss"].get<double>());
  if (o.task == "top1") {
    std::printf("top-1      %s\ntop-5      %s\n", percent(j["top1"]).c_str(), percent(j["top5"]).c_str());
    for (const Json& m : j["mistakes"])
      std::printf("mistake    %s taken for %s: %s\n", m["true"].get<std::string>().c_str(),
                  m["predicted"].get<std::string>().c_str(), m["pictures"].dump().c_str());
  }
  if (o.per_class) {
    std::printf("\n%-28s %9s %9s %10s\n", "class", "pictures", "top-1", "precision");
    for (const Json& k : j["classes"])
      std::printf("%-28s %9s %9s %10s\n", k["name"].get<std::string>().c_str(), k["pictures"].dump().c_str(),
                  percent(k["top1"]).c_str(), percent(k["precision"]).c_str());
    std::printf("\n");
  }
  std::printf("time       %.2f s, %s img/s\n", j["seconds"].get<double>(),
              format_count(j["pictures_per_second"].get<double>()).c_str());
}

}  // namespace

void evaluate_pictures(const EvaluateOptions& o, Model& any) {
  auto& model = dynamic_cast<ImageModel&>(any);
  check(o.length == 0 && o.stride == 0, "evaluate", "--length and --stride are for texts; expected --resolution");
  const auto set = open_images(o.data, o.split);
  check(static_cast<int64_t>(set->classes().size()) == model.classes(), "evaluate", "the model tells ", model.classes(),
        " classes apart; ", o.data, " has ", set->classes().size(), "; expected the data it was trained for");
  check(set->channels() == model.channels(), "evaluate", "the model takes pictures with ", model.channels(),
        " channels; those in ", o.data, " have ", set->channels());
  DataConfig data;
  check_classes(o, set->classes());
  data.resolution = o.resolution > 0 ? o.resolution : model.image_size();
  data.images = image_config(o);
  ImageOptions options = image_options(model.family(), model.config(), data, o.split, 0, Purpose::judge);
  options.log = [&](const std::string& line) { o.report.log(line); };
  const auto source = std::make_shared<ImageSource>(set, options);
  const Counts c = run_model(o, model, source, o.batch > 0 ? o.batch : 64);
  if (!o.confusion.empty()) write_confusion(o.confusion, c, set->classes());

  const auto count = static_cast<double>(c.sums.count);
  Json j{{"task", o.task},
         {"model", o.model},
         {"data", o.data},
         {"split", o.split},
         {"precision", o.precision},
         {"resolution", data.resolution},
         {"crop_pct", data.images.crop_pct},
         {"pictures", c.sums.count},
         {"unreadable", c.unreadable},
         {"loss", c.sums.loss / count}};
  if (o.task == "top1") {
    j["top1"] = c.sums.top1 / count;
    j["top5"] = c.sums.top5 / count;
    j["mistakes"] = mistakes(c, set->classes(), 5);
  }
  if (o.task == "top1" || o.per_class) j["classes"] = by_class(c, set->classes());
  j["seconds"] = c.seconds;
  j["flops"] = c.flops;
  j["pictures_per_second"] = count / c.seconds;
  if (o.report.json)
    std::cout << j.dump(2) << "\n";
  else
    print_text(o, j);
}

}  // namespace accrete
