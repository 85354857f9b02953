// Trainable weight averaging: collect snapshots on the way, then train their shares in the average.   Card: twa.md
// (arXiv 2205.13104; SWA, LAWA, EMA and soups are its untrained forms)
#pragma once

#include "training/method.h"
#include "training/optimizer.h"

namespace accrete {

struct TwaCollect {
  std::string duration = "0.6run";
  Json schedule = Json{{"name", "constant"}};
  double schedule_to = 1;
  Json plan = Json{{"name", "plain"}};

  template <class V>
  void fields(V& v) {
    v("duration", duration, "length of the collecting stage");
    v("schedule", schedule, "schedule settings that differ from the recipe's; {}: the recipe's own");
    v("schedule_to", schedule_to,
      "the stage runs through this share of its schedule: as collect.duration to leave a schedule as in the full run",
      above(0), at_most(1));
    v("plan", plan, "how the collecting stage is carried out; snapshots are those of its last stage");
  }
};

// Fields without a value follow plan.variant.
struct TwaAverage {
  std::string duration = "0.03run", coefficients = "trained";
  std::optional<std::string> optimizer, schedule, data, blocks;
  std::optional<double> lr, weight_decay;
  std::string precision = "f32", start = "mean";
  std::string ema = "0.05run";
  double clip = 0, reach = 0.2;
  int64_t statistics = 32;

  template <class V>
  void fields(V& v) {
    v("duration", duration, "length of the training of the coefficients");
    v("coefficients", coefficients,
      "trained; or a fixed average, which takes no steps: uniform (SWA), last:K (LAWA), ema, greedy (soup)");
    v("optimizer", optimizer, "of the coefficients: sgd (iclr) or adamw (journal)");
    v("lr", lr, "of the coefficients; 200 (iclr), 0.03 (journal)");
    v("weight_decay", weight_decay, "on the coefficients; 1e-5 (iclr), 0 (journal)");
    v("schedule", schedule,
      "constant, linear (to 0), step (a tenth after half, again after three quarters; iclr), or cosine (a fifth of "
      "warm-up, to 0; journal)");
    v("data", data, "split that trains, or judges a greedy soup: train (iclr) or held_out (journal)");
    v("blocks", blocks,
      "parameters with coefficients of their own: single (iclr), per_tensor (journal), per_block, min_elements:N");
    v("precision", precision, "of the stored basis", one_of("f32", "bf16", "q8", "q4", "q2", "q1"));
    v("start", start, "weights that training begins from: mean, last, or the number of a snapshot from 0");
    v("clip", clip, "largest norm of the whole gradient before it is projected; 0: no clipping", at_least(0));
    v("reach", reach,
      "a step of sgd goes at most this share of the snapshots' distance from their mean, whatever the rate; 0: no "
      "limit",
      at_least(0));
    v("statistics", statistics,
      "models with batch norm: training batches from which its statistics are estimated for the averaged weights; 0: "
      "they are averaged too",
      at_least(0));
    v("ema", ema, "coefficients ema: time constant of the average over the collecting stage, a duration");
  }
};

struct TwaConfig {
  std::string name = "twa", variant = "iclr";
  std::optional<bool> center;
  std::optional<std::string> basis;
  int64_t snapshots = 20;
  double from = 0.5;
  bool include_start = false;
  TwaCollect collect;
  TwaAverage average;
  std::vector<std::string> models;

  template <class V>
  void fields(V& v) {
    v("name", name, "plan");
    v("variant", variant, "defaults of the conference paper or of the journal version", one_of("iclr", "journal"));
    v("center", center, "directions are differences to the mean of the snapshots: false (iclr), true (journal)");
    v("basis", basis,
      "of the directions: orthonormal (iclr), unit (each scaled to length 1; journal), cgs2, cgs1_f32 (as released)");
    v("snapshots", snapshots, "of the collecting stage, equally spaced, the last at its end", between(1, 100000));
    v("from", from, "share of the collecting stage after which snapshots begin", at_least(0), at_most(0.9999));
    v("include_start", include_start, "one more snapshot, number 0: the weights the collecting stage begins from");
    v("collect", collect, "the collecting stage");
    v("average", average, "the averaging stage");
    v("models", models, "average these runs or checkpoints (a soup) instead of collecting");
  }
};

class Twa : public Method {
 public:
  Twa(const Json& plan, const Stage& stage);

 protected:
  std::optional<Part> part(int number, Results before) const override;

 private:
  // Paths of the snapshots, when the averaging stage begins.
  using Files = std::function<std::vector<std::filesystem::path>(const StageStart&)>;
  Part collecting() const;
  Part averaging(int number, const Files& files) const;
  void average_fixed(Stage& stage, const Files& files) const;
  void average_trained(Stage& stage, const Files& files) const;

  TwaConfig config_;
  Stage stage_;
  int64_t count_ = 0;  // snapshots
  int64_t last_ = 0;   // coefficients last:K
  std::vector<std::filesystem::path> models_;
  Spent spent_;  // by them
  ScheduleConfig collect_schedule_, average_schedule_;
  OptimConfig optim_;
  std::vector<double> begin_;  // shares of the snapshots in the weights that training begins from
};

}  // namespace accrete
