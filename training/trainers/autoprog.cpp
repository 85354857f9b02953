#include "training/trainers/autoprog.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "training/depth_split.h"
#include "training/extent.h"
#include "training/trainers/autoprog_begin.h"

namespace accrete {
namespace {

constexpr const char* kScoreAverage = "ema.score";

// "0.25run", exactly.
std::string share_text(double share) {
  char text[64];
  return std::string(text, std::to_chars(text, text + sizeof text, share).ptr) + "run";
}

std::string title(const GrowthSize& s) { return std::to_string(s.blocks) + " blocks x " + std::to_string(s.extent); }

// Settings that may grow, by section.
Json settings_of(const Stage& stage) {
  return Json{{"model", stage.model}, {"data", to_json(stage.data)}, {"optim", to_json(stage.optim)}};
}

// The number at a path like "model.resid_dropout".
Json& number_at(Json& settings, const std::string& path) {
  Json* at = &settings;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    check(at->is_object() && at->contains(key), "config", "\"plan.regularisation\": there is no setting \"", path,
          "\"; expected the path of a number, like model.resid_dropout or optim.weight_decay");
    at = &(*at)[key];
    begin = end + 1;
  }
  check(at->is_number(), "config", "\"plan.regularisation\": ", path, " is not a number; got ", at->dump());
  return *at;
}

// What was chosen and why: the event "choice". `variants`: as the search found them.
Json choice_note(const GrowthSize& size, const Selection& chosen, Json variants) {
  Json note{{"event", "choice"}, {"chosen", title(size)}, {"why", chosen.why}};
  if (chosen.scores.empty()) return note;
  note["w"] = chosen.w;
  if (chosen.fit) note["fit"] = Json{{"a1", chosen.fit->a1}, {"a2", chosen.fit->a2}};
  for (size_t i = 0; i < variants.size(); ++i) variants[i]["score"] = chosen.scores[i];
  note["candidates"] = std::move(variants);
  return note;
}

}  // namespace

Autoprog::Autoprog(const Json& plan, const Stage& stage) : whole_(stage) {
  from_json(config_, plan, "plan");
  check(!stage.objective && !stage.stepper, "plan", "autoprog trains networks of several sizes; the stage \"",
        stage.name, "\" has an objective or a step of its own, which is for one size");
  depths_ = group_depths(stage.model);
  depth_ = total_depth(stage.model);
  split_depth(depths_, depth_);  // refuses groups that cannot grow
  if (whole_.last_block < 0) whole_.last_block = depth_;
  grows_ = whole_.last_block - whole_.first_block;
  check(whole_.first_block >= 0 && grows_ >= 1 && whole_.last_block <= depth_, "plan",
        "autoprog: there is no block that may grow");
  check(depths_.size() == 1 || (grows_ == depth_ && !stage.trainable && stage.initialised_at_random), "plan",
        "autoprog grows a network with several groups of blocks as a whole, from random weights; the stage \"",
        stage.name, "\" trains a part of it or begins with weights");
  set_sizes();
  set_starts();
  for (int k = 0; k < config_.stages; ++k) {
    Stage copy = whole_;
    regulate(copy, k);
  }
}

// Blocks and extent of every stage.
void Autoprog::set_sizes() {
  const auto stages = static_cast<int>(config_.stages);
  const bool pictures = whole_.data.pictures();
  const AutoprogConfig none;
  check(pictures
            ? config_.length_scale == 1 && config_.lengths.empty() && config_.length_multiple == none.length_multiple
            : config_.resolution_scale == 1 && config_.resolutions.empty() &&
                  config_.resolution_multiple == none.resolution_multiple,
        "config",
        pictures ? "\"plan.length_*\" is for texts; expected plan.resolution_scale or plan.resolutions"
                 : "\"plan.resolution*\" is for pictures; expected plan.length_scale or plan.lengths");
  const double scale = pictures ? config_.resolution_scale : config_.length_scale;
  const std::vector<int64_t>& extents = pictures ? config_.resolutions : config_.lengths;
  const int64_t full = extent(whole_.data), multiple = pictures ? config_.resolution_multiple : config_.length_multiple;
  const std::string key = pictures ? "resolution" : "length";
  const auto listed = [&](const std::vector<int64_t>& list, int64_t end, const char* key, const char* end_words) {
    if (list.empty()) return;
    check(static_cast<int64_t>(list.size()) == stages, "config", "\"", key, "\" has ", list.size(),
          " values; expected one for each of the ", stages, " stages (plan.stages)");
    check(std::is_sorted(list.begin(), list.end()), "config", "\"", key, "\" shrinks; expected sizes that grow");
    check(list.back() == end, "config", "\"", key, "\" ends with ", list.back(), "; the last stage trains the whole, ",
          end_words, " ", end);
  };
  listed(config_.depths, grows_, "plan.depths", "blocks:");
  listed(extents, full, ("plan." + key + "s").c_str(), ("data." + key + ":").c_str());
  check(!extents.empty() || scale == 1 || (full % multiple == 0 && full > multiple), "config", "\"plan.", key,
        "_scale\" is below 1, but data.", key, " (", full, ") has no smaller one in multiples of ", multiple,
        "; expected plan.", key, "_multiple to divide it, or plan.", key, "s");
  for (int k = 0; k < stages; ++k) {
    const auto i = static_cast<size_t>(k);
    GrowthSize size{grows_, full};
    if (!config_.depths.empty())
      size.blocks = config_.depths[i];
    else if (k + 1 < stages)
      size.blocks =
          std::min(grows_, make_divisible(staged(static_cast<double>(grows_), config_.depth_scale, k, stages), 1));
    if (!extents.empty())
      size.extent = extents[i];
    else if (scale < 1 && k + 1 < stages)
      size.extent = std::min(full, make_divisible(staged(static_cast<double>(full), scale, k, stages), multiple));
    sizes_.push_back(size);
  }
  if (!config_.search) return;
  check(stages >= 2 && sizes_.front() != sizes_.back(), "config",
        "\"plan.search\": nothing to choose from: every stage has ", title(sizes_.back()),
        "; expected at least 2 stages, and depth_scale or ", key, "_scale below 1");
  check(sizes_.back().blocks <= 2 * sizes_.front().blocks, "config", "\"plan.search\": one supernet cannot hold ",
        sizes_.front().blocks, " and ", sizes_.back().blocks, " blocks, more than a factor of 2; expected at least ",
        (sizes_.back().blocks + 1) / 2, " in the first stage, or no search");
}

// Where stages begin, as shares; whole steps where the duration is in steps.
void Autoprog::set_starts() {
  const Duration whole = parse_duration(whole_.duration, "duration");
  const auto stages = static_cast<size_t>(config_.stages);
  check(config_.starts.empty() || (config_.starts.size() == stages && config_.starts[0] == 0), "config",
        "\"plan.starts\" needs ", stages, " shares of the training, the first 0");
  const bool steps = whole.unit == Duration::Unit::steps;
  for (size_t k = 0; k < stages; ++k) {
    const double share =
        config_.starts.empty() ? static_cast<double>(k) / static_cast<double>(stages) : config_.starts[k];
    starts_.push_back(steps && whole.value > 0 ? std::floor(share * whole.value + 1e-9) / whole.value : share);
  }
  starts_.push_back(1);
  if (config_.search) {
    const Duration d = parse_duration(config_.search->duration, "plan.search.duration");
    check(d.unit == Duration::Unit::run || (d.unit == whole.unit && whole.value > 0), "config",
          "\"plan.search.duration\" (", config_.search->duration, ") cannot be compared with the training's ",
          whole_.duration, "; expected a share like 0.02run, or the same unit");
    check(d.value > 0, "config", "\"plan.search.duration\" is 0; expected a duration, or plan.search null");
    search_ = d.unit == Duration::Unit::run ? d.value : d.value / whole.value;
    if (steps) search_ = std::max(1.0, std::round(search_ * whole.value)) / whole.value;
  }
  for (size_t k = 0; k < stages; ++k) {
    const double length = starts_[k + 1] - starts_[k];
    check(length > 0, "config", "stage ", k + 1, " of ", stages, " has no step; expected fewer stages (plan.stages), ",
          "ascending plan.starts below 1, or a longer training than ", whole_.duration);
    check(k + 1 == stages || length > search_ + 1e-12, "config", "\"plan.search.duration\" (", config_.search->duration,
          ") leaves nothing of stage ", k + 1, ", a share of ", length, " of the training; expected a shorter search");
  }
}

// The settings that grow, at their values of stage k.
void Autoprog::regulate(Stage& stage, int k) const {
  Json settings = settings_of(stage);
  const auto set = [&](const std::string& path, double value) {
    Json& number = number_at(settings, path);
    // Whole numbers, to even, as released; timm's magnitudes too, though a fraction would mean something.
    if (number.is_number_integer())
      number = static_cast<int64_t>(std::nearbyint(value));
    else if (path == "data.augment.magnitude")
      number = std::nearbyint(value);
    else
      number = value;
  };
  const auto stages = static_cast<int>(config_.stages);
  for (const auto& [path, scale] : config_.regularisation)
    set(path, std::max(0.0, staged(number_at(settings, path).get<double>(), scale, k, stages)));
  for (const auto& [path, values] : config_.regularisation_lists) {
    check(values.size() == static_cast<size_t>(stages), "config", "\"plan.regularisation_lists\": ", path, " has ",
          values.size(), " values; expected one for each of the ", stages, " stages");
    set(path, values[static_cast<size_t>(k)]);
  }
  if (config_.regularisation.empty() && config_.regularisation_lists.empty()) return;
  stage.model = settings["model"];
  from_json(stage.data, settings["data"], "data");
  from_json(stage.optim, settings["optim"], "optim");
}

Autoprog::Choices Autoprog::choices(int k, const std::optional<GrowthSize>& at) const {
  Choices c;
  if (!config_.search) return {{sizes_[static_cast<size_t>(k)]}, 0, 0};
  c.sizes = candidate_sizes(sizes_, k, at, config_.search->force_depth);
  c.base = config_.search->base == "prev" && at ? at->blocks : c.sizes.front().blocks;
  c.max = c.sizes.back().blocks;
  return c;
}

std::vector<int64_t> Autoprog::split(int64_t blocks) const {
  return depths_.size() == 1 ? std::vector<int64_t>{blocks} : split_depth(depths_, blocks);
}

std::vector<ActiveBlocks> Autoprog::active(const Choices& c, int64_t blocks) const {
  const auto mine = split(blocks), base = split(c.base), max = split(c.max);
  std::vector<ActiveBlocks> groups;
  for (size_t g = 0; g < mine.size(); ++g)
    groups.push_back({whole_.first_block, max[g],
                      active_blocks(static_cast<int>(mine[g]), static_cast<int>(base[g]), static_cast<int>(max[g]),
                                    map_mode_of(config_.map))});
  return groups;
}

Selection Autoprog::decide(const Choices& c, const StageResult& searched, double w) const {
  const Json& variants = searched.found.at("variants");
  check(variants.size() == c.sizes.size(), "plan", "the search has scores of ", variants.size(),
        " candidates instead of ", c.sizes.size());
  // A candidate that was never drawn has no time: then all are compared by FLOPs.
  const bool timed = config_.search->cost == "time" &&
                     std::all_of(variants.begin(), variants.end(), [](const Json& v) { return v.at("seconds") > 0; });
  std::vector<Scored> scored;
  for (const Json& v : variants)
    scored.push_back(
        {v.at("loss").get<double>(), v.at(timed ? "seconds" : "flops").get<double>() / v.at("tokens").get<double>()});
  Selection s = choose(scored, config_.search->w, w);
  if (!timed && config_.search->cost == "time") s.why += "; by FLOPs: a candidate was never drawn";
  return s;
}

// A stage of the training of `size` over a span of the whole.
Stage Autoprog::make(int number, std::string name, int k, const GrowthSize& size, Span span) const {
  Stage stage = part_of(whole_, number, std::move(name));
  if (size.blocks != grows_)
    stage.model = with_group_depths(
        stage.model, depths_.size() == 1 ? std::vector<int64_t>{depth_ - grows_ + size.blocks} : split(size.blocks));
  stage.last_block = stage.first_block + size.blocks;
  set_extent(stage.data, stage.batch, size.extent);
  regulate(stage, k);
  stage.duration = share_of(share_text(span.to - span.from), whole_.duration, "plan");
  const double schedule = whole_.schedule_to - whole_.schedule_from;
  stage.schedule_from = whole_.schedule_from + schedule * span.from;
  stage.schedule_to = whole_.schedule_from + schedule * span.to;
  if (whole_.trainable && size.blocks != grows_)
    stage.trainable = renumbered(whole_.trainable, {whole_.first_block, size.blocks, grows_});
  if (span.to == 1) return stage;
  stage.keep = false;
  stage.collect.reset();  // snapshots on the way are those of the full network
  stage.label = nullptr;  // and what others build on is its end
  if (config_.grow == "mogrow" || (config_.search && config_.search->recycle == "ema"))
    stage.average_times[kGrowAverage] = share_of(config_.ema_grow, whole_.duration, "plan.ema_grow");
  return stage;
}

// How a stage with a network of size `to` begins after one of size `from` (nothing: it is the first).
void Autoprog::begin(Stage& stage, const std::optional<GrowthSize>& from, const GrowthSize& to) const {
  if (!from) {
    if (to.blocks != grows_ && !whole_.initialised_at_random)
      stage.initialise = begin_with_part(whole_.initialise, whole_.model, {whole_.first_block, to.blocks, grows_});
    return;
  }
  if (*from == to) return;  // goes on
  Json note{{"event", "growth"}};
  if (from->extent != to.extent)
    note[whole_.data.pictures() ? "resolution" : "length"] =
        std::to_string(from->extent) + " -> " + std::to_string(to.extent);
  if (from->blocks != to.blocks) {
    std::vector<Growth> growths;
    const auto less = split(from->blocks), more = split(to.blocks);
    Json added = Json::array();
    for (size_t g = 0; g < less.size(); ++g) {
      Growth growth;
      growth.first = static_cast<int>(whole_.first_block);
      growth.from = static_cast<int>(less[g]);
      growth.to = static_cast<int>(more[g]);
      growth.how = grow_operator_of(config_.grow);
      growth.map = map_mode_of(config_.map);
      growth.moments = opt_state_of(config_.moments);
      if (less.size() == 1)
        added = grown_blocks(growth);
      else
        added.push_back(grown_blocks(growth));
      growths.push_back(growth);
    }
    stage.initialise = begin_grown(growths);
    note["blocks"] = std::to_string(from->blocks) + " -> " + std::to_string(to.blocks);
    note["by"] = config_.grow;
    note["map"] = config_.map;
    note["new"] = added;
    note["moments"] = config_.moments;
  }
  stage.notes.push_back(note);
}

// The supernet of all candidates; the settings that grow are at their final values.
Stage Autoprog::searching(int number, int k, const std::optional<GrowthSize>& at, const Choices& c) const {
  const AutoprogSearch& search = *config_.search;
  const double from = starts_[static_cast<size_t>(k)];
  const GrowthSize largest = c.sizes.back();
  Stage stage = make(number, "search " + std::to_string(k + 1), static_cast<int>(config_.stages) - 1, largest,
                     {from, from + search_});
  begin(stage, at, largest);
  Elastic elastic;
  elastic.score_batches = search.batches;
  elastic.scorings = search.scorings;
  if (parse_duration(search.ema_score, "plan.search.ema_score").value > 0) {
    stage.average_times[kScoreAverage] = share_of(search.ema_score, whole_.duration, "plan.search.ema_score");
    elastic.score_average = kScoreAverage;
  }
  for (const GrowthSize& size : c.sizes) {
    Variant& v = elastic.variants.emplace_back();
    v.name = title(size);
    v.extent = size.extent;
    int64_t first = whole_.first_block;
    for (const ActiveBlocks& group : active(c, size.blocks)) {
      for (int64_t i = 0; i < group.count; ++i)
        if (!std::binary_search(group.active.begin(), group.active.end(), static_cast<int>(i)))
          v.skip.push_back(first + i);
      first += group.count;
    }
  }
  stage.elastic = std::move(elastic);
  return stage;
}

// Walks through the stages: each is one part, or two where sizes are to choose between (the search, and the training of
// the chosen one). Without a result of the search the size is the schedule's.
std::optional<Part> Autoprog::part(int number, Results before) const {
  std::optional<GrowthSize> at;
  double w = config_.search ? config_.search->w_default : 0;
  int n = 0;
  for (int k = 0; k < static_cast<int>(config_.stages); ++k) {
    const auto index = static_cast<size_t>(k);
    const Choices c = choices(k, at);
    Span span{starts_[index], starts_[index + 1]};
    const std::string name = "stage " + std::to_string(k + 1);
    if (c.sizes.size() == 1) {
      if (n++ == number) {
        Part part{make(number, name, k, c.sizes[0], span), config_.plan};
        begin(part.stage, at, c.sizes[0]);
        return part;
      }
      at = c.sizes[0];
      continue;
    }
    if (n == number) return Part{searching(number, k, at, c)};
    const StageResult& searched = before[static_cast<size_t>(n)];
    const bool known = searched.found.contains("variants");
    Selection chosen;
    if (known) {
      chosen = decide(c, searched, w);
      w = chosen.w;
    } else {
      const auto planned = std::find(c.sizes.begin(), c.sizes.end(), sizes_[index]);
      chosen.index = planned == c.sizes.end() ? 0 : static_cast<size_t>(planned - c.sizes.begin());
      chosen.why = "not searched yet: the size of the schedule";
    }
    const GrowthSize size = c.sizes[chosen.index];
    if (++n == number) {
      span.from += search_;
      Part part{make(number, known ? name : name + " (if as scheduled)", k, size, span), config_.plan};
      part.stage.initialise =
          begin_extracted(active(c, size.blocks), opt_state_of(config_.moments), config_.search->recycle == "ema");
      part.stage.notes.push_back(choice_note(size, chosen, known ? searched.found["variants"] : Json::array()));
      return part;
    }
    ++n;
    at = size;
  }
  return std::nullopt;
}

}  // namespace accrete
