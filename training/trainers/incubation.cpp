#include "training/trainers/incubation.h"

#include <algorithm>

#include "engine/core/random.h"
#include "training/depth_split.h"
#include "training/duration.h"
#include "training/grow.h"
#include "training/trainers/imitation.h"

namespace accrete {
namespace {

// "[4,4,5]"
std::string text_of(const std::vector<int64_t>& list) { return Json(list).dump(); }

}  // namespace

Incubation::Incubation(const Json& plan, const Stage& stage) : whole_(stage) {
  from_json(config_, plan, "plan");
  check_whole(stage, "incubation");
  check(stage.initialised_at_random, "plan", "incubation builds its model from modules; the stage \"", stage.name,
        "\" begins with weights; expected incubation as the first stage");
  ends_ = config_.embeddings == "own" ? Ends::own : Ends::shared_frozen;
  const bool imitates = config_.strategy.starts_with("imitation");
  check(config_.strategy != "imitation" || ends_ != Ends::own, "plan",
        "imitation of features does not train an output layer; expected embeddings=shared_frozen, or "
        "strategy=imitation+task");
  check(config_.strategy != "independent" || config_.own_data, "plan",
        "independent models of the same seed would be the same model; expected own_data=true");
  check(!imitates || config_.strategy == "imitation" || config_.task_weight > 0, "plan",
        "imitation+task with task_weight 0 is imitation; expected a weight above 0, or strategy=imitation");
  read_partition();
  list_jobs();
  phase(config_.meta, "meta", 0, "");  // refuse wrong settings now, those of phases that do not run too
  phase(config_.modular, "modular", 0, "");
  phase(config_.finetune, "finetune", 0, "");
}

void Incubation::read_partition() {
  const std::vector<int64_t> groups = group_depths(whole_.model);  // refuses models without blocks
  const int64_t depth = total_depth(whole_.model);
  const IncubationConfig& c = config_;
  check(c.modules == 0 || c.depths.empty() || c.modules == static_cast<int64_t>(c.depths.size()), "plan",
        "plan.modules is ", c.modules, " and plan.depths lists ", c.depths.size(), " modules; expected one of them");
  cut_.depths = c.depths;
  // Where something lies between groups of blocks (VOLO), no module reaches over it: each group is one by default.
  if (cut_.depths.empty() && groups.size() > 1 && (c.modules == 0 || c.modules == static_cast<int64_t>(groups.size())))
    cut_.depths = groups;
  if (cut_.depths.empty()) {
    const int64_t K = c.modules > 0 ? c.modules : 4;
    check(K <= depth, "plan", "incubation in ", K, " modules needs as many blocks; the model has ", depth,
          "; expected plan.modules of at most ", depth);
    // What an uneven cut would look like: the first modules get one block more.
    for (int64_t k = 0; k < K; ++k) cut_.depths.push_back(depth / K + (k < depth % K ? 1 : 0));
    check(depth % K == 0, "plan", depth, " blocks cannot be cut into ", K,
          " equal modules; expected plan.depths, e.g. ", text_of(cut_.depths));
  }
  check(static_cast<int64_t>(cut_.depths.size()) <= depth && cut_.target_depth() == depth, "plan", "plan.depths ",
        text_of(cut_.depths), " make ", cut_.target_depth(), " blocks; the model has ", depth);
  if (groups.size() > 1) {
    size_t group = 0;
    int64_t room = groups[0];
    for (const int64_t blocks : cut_.depths) {
      if (room == 0 && group + 1 < groups.size()) room = groups[++group];
      check(blocks <= room, "plan", "plan.depths ", text_of(cut_.depths),
            ": a module reaches from one group of blocks "
            "into the next; the groups have ",
            text_of(groups), " blocks; expected plan.depths ", text_of(groups), " or finer");
      room -= blocks;
      cut_.groups.push_back(static_cast<int64_t>(group));
    }
  }
  cut_.meta = c.meta_depths;
  if (cut_.meta.size() == 1) cut_.meta.resize(cut_.depths.size(), cut_.meta[0]);
  check(cut_.meta.size() == cut_.depths.size(), "plan", "plan.meta_depths lists ", cut_.meta.size(),
        " modules; there are ", cut_.modules(), "; expected as many, or one number for all");
  if (c.target_init == "from_meta")
    for (size_t k = 0; k < cut_.meta.size(); ++k)
      check(cut_.meta[k] <= cut_.depths[k], "plan", "module ", k, " of ", cut_.depths[k],
            " blocks cannot begin as its meta module of ", cut_.meta[k], "; expected smaller meta_depths");
}

void Incubation::list_jobs() {
  const IncubationConfig& c = config_;
  const std::string& only = c.only;
  using Kind = Job::Kind;
  const auto refuse_if = [&](bool wrong, const auto&... words) { check(!wrong, "plan", words...); };
  refuse_if(c.strategy == "e2e" && !(only.empty() && c.meta_from.empty() && c.modules_from.empty()),
            "strategy e2e has no parts; only, meta_from and modules_from must be empty");
  refuse_if(!has_meta() && (only == "meta" || !c.meta_from.empty()), "strategy ", c.strategy, " has no meta model");
  refuse_if(!c.modules_from.empty() && !(only.empty() && c.meta_from.empty()),
            "modules_from takes trained modules; only and meta_from must then be empty");
  refuse_if(only == "meta" && !c.meta_from.empty(),
            "only=meta trains what meta_from would bring; expected one of them");
  if (c.strategy == "e2e") {
    jobs_ = {{Kind::whole}};
  } else if (!c.modules_from.empty()) {
    find_modules();
    jobs_ = {{Kind::target}};
  } else if (only == "meta") {
    jobs_ = {{Kind::meta}};
  } else {
    if (!c.meta_from.empty()) find_meta();
    int64_t number = -1;
    if (!only.empty()) {
      const bool digits = only.size() <= 6 && only.find_first_not_of("0123456789") == std::string::npos;
      number = digits ? std::stoll(only) : -1;
      check(number >= 0 && number < cut_.modules(), "plan", "only is \"", only,
            "\"; expected meta, or a module from 0 to ", cut_.modules() - 1);
      check(!has_meta() || meta_, "plan", "module ", number,
            " alone needs a trained meta model; expected plan.meta_from=FOLDER of a run with --only meta");
    } else if (has_meta() && !meta_) {
      jobs_.push_back({Kind::meta});
    }
    for (int64_t k = 0; k < cut_.modules(); ++k)
      if (number < 0 || k == number) jobs_.push_back({Kind::module, k});
    if (number < 0) jobs_.push_back({Kind::target});
  }
}

void Incubation::find_meta() {
  const Kept kept = find_kept(config_.meta_from, "meta", "plan.meta_from").back();
  const Json expected = with_group_depths(model_of(config_.meta, "meta"), cut_.meta_depths());
  const auto different = differences(kept.state.value("model", Json::object()), expected);
  check(different.empty() && kept.label.part != "module", "plan", "plan.meta_from: ", kept.path.string(),
        " is not this plan's meta model: ", different.empty() ? "it is a module" : to_text(different));
  meta_ = Left{-1, kept, kept.spent};
  charged_ = kept.spent;
}

void Incubation::find_modules() {
  Gathered all = gather_modules(config_.modules_from, label("module"), "plan.modules_from");
  for (Kept& kept : all.modules) modules_.push_back({-1, std::move(kept), {}});
  charged_ = all.spent;
}

int64_t Incubation::seed_of(const char* purpose, int64_t number) const {
  const auto base = static_cast<uint64_t>(whole_.seed.value_or(whole_.base_seed));
  const RandomKey key = random_key(base, purpose, static_cast<uint64_t>(number));
  return static_cast<int64_t>(random_below(key, 0, uint64_t{1} << 62));
}

PartLabel Incubation::label(const char* part) const {
  PartLabel l;
  l.method = config_.name;
  l.part = part;
  l.strategy = config_.strategy;
  l.embeddings = config_.embeddings;
  l.depths = cut_.depths;
  l.meta_depths = cut_.meta;
  l.model = whole_.model;
  return l;
}

Json Incubation::model_of(const PhaseConfig& c, const char* key) const {
  Json model = whole_.model;
  for (const auto& [name, rate] : c.model) {
    check(model.contains(name) && model[name].is_number_float(), "config", "\"plan.", key,
          ".model\": the model has no rate \"", name, "\"; expected one like drop_path or resid_dropout");
    model[name] = rate;
  }
  return model;
}

Stage Incubation::phase(const PhaseConfig& c, const char* key, int number, std::string name) const {
  Stage s = part_of(whole_, number, std::move(name));
  const std::string path = std::string("plan.") + key;
  s.duration = share_of(c.duration, whole_.duration, path + ".duration");
  s.model = model_of(c, key);
  s.schedule_from = 0;
  s.schedule_to = 1;
  s.optim.lr *= c.lr_factor;
  if (c.warmup) s.schedule.warmup = *c.warmup;
  if (c.clip) s.optim.clip = *c.clip;
  from_json(s.schedule, c.schedule, path + ".schedule");
  if (parse_duration(s.duration, path).value == 0) s.schedule = {};  // no step: no warm-up that could be too long
  if (number == 0) s.charged += charged_;
  s.keep = true;
  return s;
}

Part Incubation::meta_part(int number) const {
  PhaseConfig phase_config = config_.meta;
  if (config_.strategy == "untrained_meta") phase_config.duration = "0st";
  Stage s = phase(phase_config, "meta", number, "meta");
  s.model = with_group_depths(s.model, cut_.meta_depths());
  s.label = [l = to_json(label("meta"))](StageStart&) { return l; };
  return {s, config_.meta.plan};
}

Part Incubation::module_part(int number, int64_t k, Results before) const {
  Stage s = phase(config_.modular, "modular", number, "module " + std::to_string(k));
  // A stream of its own: the result does not depend on which other jobs ran, or where.
  s.seed = seed_of("incubation module", config_.own_data ? k + 1 : 0);
  PartLabel l = label("module");
  l.module = k;
  if (!has_meta()) {  // a whole model of its own
    s.initialise = begin_at_random;
    s.initialised_at_random = true;
    s.label = [l](StageStart&) { return to_json(l); };
    return {s, config_.modular.plan};
  }
  const Left meta = meta_ ? *meta_ : Left{before[0].index, std::nullopt, before[0].spent};
  const Begin begin = config_.target_init == "from_meta" ? Begin::from_meta : Begin::random;
  s.model = with_group_depths(s.model, cut_.hybrid_depths(k));
  s.first_block = cut_.hybrid_begin(k);
  s.last_block = s.first_block + cut_.depths[static_cast<size_t>(k)];
  s.trainable = [cut = cut_, ends = ends_, k](const ParamEntry& e) { return trains(cut, ends, k, e); };
  s.initialised_at_random = false;
  s.initialise = [cut = cut_, ends = ends_, begin, k, meta, target = whole_.model](StageStart& start) {
    const Snapshot weights = meta.read(start);
    // The module's first values are those the whole target would have: their scale may depend on its depth.
    const auto parts = hybrid_parts(weights, start.fresh(target), cut, ends, begin, k);
    restore(start.store, assemble(parts, start.store.entries()), start.optimizer);
    start.note({{"event", "assemble"},
                {"what", "hybrid " + std::to_string(k)},
                {"meta", meta.name()},
                {"checksum", checksum(weights)}});
  };
  l.meta_spent = meta.spent;
  s.label = [l, meta](StageStart& start) mutable {
    l.meta = checksum(meta.read(start));
    return to_json(l);
  };
  if (config_.strategy.starts_with("imitation")) {
    const int64_t meta_end = cut_.meta_begin(k) + cut_.meta[static_cast<size_t>(k)];
    s.objective = imitation({.teacher = with_group_depths(whole_.model, cut_.meta_depths()),
                             .weights = [meta](StageStart& start) { return meta.read(start); },
                             .blocks = meta_end,
                             .behind = cut_.meta_depth() - meta_end,
                             .task_weight = config_.strategy == "imitation" ? 0 : config_.task_weight});
  }
  return {s, config_.modular.plan};
}

Part Incubation::target_part_of_run(int number, Results before) const {
  Stage s = phase(config_.finetune, "finetune", number, "fine-tuning");
  s.seed = seed_of("incubation fine-tuning", 0);
  s.keep = whole_.keep;
  s.initialised_at_random = false;
  s.evaluate_first = parse_duration(s.duration, "duration").value > 0;
  std::vector<Left> jobs = modules_;
  Json cost = Json::object();
  if (jobs.empty()) {
    const size_t first = before.size() - cut_.depths.size();
    double slowest = 0, flops = meta_ ? meta_->spent.flops : first > 0 ? before[0].spent.flops : 0;
    const double meta_flops = flops;
    for (size_t k = 0; k < cut_.depths.size(); ++k) {
      const StageResult& r = before[first + k];
      jobs.push_back({r.index, std::nullopt, r.spent});
      // The first job of a run with meta_from was charged for the meta model.
      const double own = r.spent.flops - (meta_ && k == 0 ? meta_flops : 0);
      slowest = std::max(slowest, own);
      flops += own;
    }
    cost = Json{{"flops", flops}, {"critical_flops", meta_flops + slowest}};
  }
  s.initialise = [=, this_cut = cut_, whole_models = !has_meta()](StageStart& start) {
    std::vector<Snapshot> parts;
    Json list = Json::array();
    for (int64_t k = 0; k < this_cut.modules(); ++k) {
      const Left& job = jobs[static_cast<size_t>(k)];
      const int64_t first = whole_models ? this_cut.target_begin(k) : this_cut.hybrid_begin(k);
      parts.push_back(target_part(job.read(start), this_cut, k, first));
      list.push_back({{"module", k}, {"source", job.name()}, {"checksum", checksum(parts.back())}});
    }
    restore(start.store, assemble(parts, start.store.entries()), start.optimizer);
    Json note{{"event", "assemble"}, {"what", "target"}, {"parts", list}};
    note.update(cost);
    start.note(note);
  };
  return {s, config_.finetune.plan};
}

std::optional<Part> Incubation::part(int number, Results before) const {
  if (static_cast<size_t>(number) >= jobs_.size()) return std::nullopt;
  const Job& job = jobs_[static_cast<size_t>(number)];
  switch (job.kind) {
    case Job::Kind::whole:
      return Part{whole_};
    case Job::Kind::meta:
      return meta_part(number);
    case Job::Kind::module:
      return module_part(number, job.module, before);
    case Job::Kind::target:
      return target_part_of_run(number, before);
  }
  return std::nullopt;
}

Snapshot Incubation::Left::read(StageStart& start) const {
  return kept ? start.external(kept->path) : start.earlier(stage);
}

std::string Incubation::Left::name() const { return kept ? kept->path.string() : "stage " + std::to_string(stage); }

}  // namespace accrete
