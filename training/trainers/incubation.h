// Deep Incubation (arXiv 2212.04129): a deep model is trained in modules that never meet until they are assembled.
//
//   meta      M' = M'_{K-1} o ... o M'_0, few blocks for each module, is trained end to end and then never changes
//   modules   job k:  minimise over M_k alone  loss( M'_{K-1} o .. o M'_{k+1} o M_k o M'_{k-1} o .. o M'_0 )
//   target    M = M_{K-1} o ... o M_0 from the trained modules, fine-tuned end to end
//
// The frozen modules before M_k run forward and keep nothing; those behind it hand on input gradients only. Jobs share
// no state and may run in other processes (`only`), which meet through their checkpoints. Card: incubation.md.
#pragma once

#include "training/method.h"
#include "training/trainers/incubation_kept.h"
#include "training/trainers/incubation_parts.h"

namespace accrete {

// One of the three phases: a training of its own.
struct PhaseConfig {
  std::string duration;
  double lr_factor = 1;
  std::optional<std::string> warmup;
  std::optional<double> clip;
  Json schedule = Json::object();
  std::map<std::string, double> model;
  Json plan = Json{{"name", "plain"}};

  template <class V>
  void fields(V& v) {
    v("duration", duration, "length; as a share: of the whole training (0.2run). 0st: none");
    v("lr_factor", lr_factor, "peak learning rate as a multiple of optim.lr", above(0));
    v("warmup", warmup, "warm-up; null: schedule.warmup of the recipe");
    v("clip", clip, "largest gradient norm, 0: no clipping; null: optim.clip of the recipe", at_least(0));
    v("schedule", schedule, "settings that replace those of the recipe's schedule");
    v("model", model, "rates of the model in this phase, by name: {\"drop_path\": 0}", at_least(0));
    v("plan", plan, "plan that carries out the phase (each module's own training)");
  }
};

struct IncubationConfig {
  std::string name = "incubation";
  int64_t modules = 0;
  std::vector<int64_t> depths, meta_depths = {1};
  PhaseConfig meta{.duration = "0.3run"}, modular{.duration = "0.2run"},
      finetune{.duration = "0.5run", .warmup = "0st", .clip = 1.0};
  std::string strategy = "incubation", target_init = "random", embeddings = "shared_frozen";
  double task_weight = 1;
  bool own_data = true;
  std::string only, meta_from;
  std::vector<std::string> modules_from;

  template <class V>
  void fields(V& v) {
    v("name", name, "plan");
    v("modules", modules, "K, the number of modules, all of the same depth; 0: that of depths, or 4",
      between(0, 1 << 16));
    v("depths", depths, "blocks of each module; empty: all the same", between(1, 100000));
    v("meta_depths", meta_depths, "blocks of each module of the meta model; one number: of all", between(1, 100000));
    v("meta", meta, "training of the meta model");
    v("modular", modular, "training of each module");
    v("finetune", finetune, "training of the assembled model");
    v("strategy", strategy,
      "incubation: task loss inside the frozen meta model; imitation: of the meta module's output; imitation+task: "
      "both; independent: K whole models, a module of each; untrained_meta: the meta model is random; e2e: none of it",
      one_of("incubation", "imitation", "imitation+task", "independent", "untrained_meta", "e2e"));
    v("task_weight", task_weight, "of the task loss in imitation+task", at_least(0));
    v("target_init", target_init,
      "first values of a module: random, or from_meta: hybrids and target begin as the meta model",
      one_of("random", "from_meta"));
    v("embeddings", embeddings,
      "shared_frozen: all that is not a block is the meta model's until fine-tuning; own: the first job trains what "
      "comes before the blocks, the last job what comes after (not for tied embeddings)",
      one_of("shared_frozen", "own"));
    v("own_data", own_data, "every job sees the data in another order");
    v("only", only, "train only this part: meta, or the number of a module; empty: everything");
    v("meta_from", meta_from, "run folder or checkpoint with the trained meta model; empty: trained here");
    v("modules_from", modules_from, "run folders or checkpoints with all trained modules, to be assembled");
  }
};

class Incubation : public Method {
 public:
  Incubation(const Json& plan, const Stage& stage);

  const Partition& partition() const { return cut_; }

 protected:
  std::optional<Part> part(int number, Results before) const override;

 private:
  // Weights that a stage of this run, or another run, has left.
  struct Left {
    int stage = -1;
    std::optional<Kept> kept;
    Spent spent;  // on it
    Snapshot read(StageStart& start) const;
    std::string name() const;
  };
  struct Job {
    enum class Kind : uint8_t { whole, meta, module, target } kind;
    int64_t module = 0;
  };

  void read_partition();
  void list_jobs();
  void find_meta();
  void find_modules();
  bool has_meta() const { return config_.strategy != "independent" && config_.strategy != "e2e"; }
  int64_t seed_of(const char* purpose, int64_t number) const;
  PartLabel label(const char* part) const;

  Json model_of(const PhaseConfig& config, const char* key) const;  // the whole model with the phase's rates
  Stage phase(const PhaseConfig& config, const char* key, int number, std::string name) const;
  Part meta_part(int number) const;
  Part module_part(int number, int64_t k, Results before) const;
  Part target_part_of_run(int number, Results before) const;

  IncubationConfig config_;
  Stage whole_;
  Partition cut_;
  Ends ends_;
  std::vector<Job> jobs_;
  std::optional<Left> meta_;   // when another run trained it
  std::vector<Left> modules_;  // when other runs trained them; in order
  Spent charged_;              // by those runs
};

}  // namespace accrete
