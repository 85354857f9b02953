// AutoProg (Li et al. 2022, arXiv 2203.14509): progressive training. One training is cut into stages; the network
// begins shallow and on small samples (short texts, small pictures) and grows to its full size, so that early steps
// cost a part of a full one. Either the sizes follow a schedule, or at the beginning of each stage an elastic supernet
// that holds several candidates is trained for a few steps and the size with the best loss for its cost goes on with
// the weights it has there.
//
//   stage k of K, t = (k - 1) / (K - 1):   blocks and extent = full (s + (1 - s) t), rounded;  the last stage is full
//   growth:                                new weights = map of a running average of the old (training/growth_ops.h)
//
// The learning-rate schedule runs on through all stages.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "training/growth_schedule.h"
#include "training/method.h"
#include "training/select.h"

namespace accrete {

struct AutoprogSearch {
  std::string duration = "0.02run";
  int64_t batches = 4;
  int64_t scorings = 4;
  std::string cost = "flops";
  std::optional<double> w;
  double w_default = 0.1;
  std::string base = "min";
  std::string recycle = "online";
  bool force_depth = true;
  std::string ema_score = "0.004run";

  template <class V>
  void fields(V& v) {
    v("duration", duration, "training of the supernet in each stage; taken from the stage's own time");
    v("batches", batches, "training batches on which a candidate is scored", between(1, 100000));
    v("scorings", scorings, "scorings of a search, equally spaced; their mean counts", between(1, 1000));
    v("cost", cost, "what a step costs: counted FLOPs (repeatable) or measured time", one_of("flops", "time"));
    v("w", w, "exponent of the cost; null: fitted to the candidates", at_least(0));
    v("w_default", w_default, "exponent where a fit says nothing, until one did", at_least(0));
    v("base", base, "candidates share the blocks of the smallest one (min) or of the network before (prev)",
      one_of("min", "prev"));
    v("recycle", recycle, "the chosen network goes on with the supernet's weights or with their running average",
      one_of("online", "ema"));
    v("force_depth", force_depth, "candidates are deeper than the network before");
    v("ema_score", ema_score, "time constant of the running average that is scored, a duration; 0st: the weights");
  }
};

struct AutoprogConfig {
  std::string name = "autoprog";
  int64_t stages = 4;
  std::vector<double> starts;
  double depth_scale = 0.5;
  std::vector<int64_t> depths;
  double length_scale = 1.0;
  std::vector<int64_t> lengths;
  int64_t length_multiple = 64;
  double resolution_scale = 1.0;
  std::vector<int64_t> resolutions;
  int64_t resolution_multiple = 32;
  std::string grow = "mogrow";
  std::string map = "top";
  std::string moments = "map";
  std::string ema_grow = "0.02run";
  std::map<std::string, double> regularisation;
  std::map<std::string, std::vector<double>> regularisation_lists;
  std::optional<AutoprogSearch> search;
  Json plan = Json{{"name", "plain"}};

  template <class V>
  void fields(V& v) {
    v("name", name, "plan");
    v("stages", stages, "number of stages", between(1, 1000));
    v("starts", starts, "share of the training at which each stage begins; empty: equally spaced", at_least(0));
    v("depth_scale", depth_scale, "blocks of the first stage as a share of all", above(0), at_most(1));
    v("depths", depths, "blocks of each stage, instead of depth_scale", at_least(1));
    v("length_scale", length_scale, "length of the first stage's samples as a share of the full length", above(0),
      at_most(1));
    v("lengths", lengths, "length of each stage's samples, instead of length_scale", at_least(1));
    v("length_multiple", length_multiple, "lengths are rounded to multiples of this", at_least(1));
    v("resolution_scale", resolution_scale, "pictures: resolution of the first stage as a share of the full one",
      above(0), at_most(1));
    v("resolutions", resolutions, "pictures: resolution of each stage, instead of resolution_scale", at_least(1));
    v("resolution_multiple", resolution_multiple,
      "pictures: resolutions are rounded to multiples of this (the patch size for vit, twice that for volo)",
      at_least(1));
    v("grow", grow, "operator", one_of("mogrow", "interp", "interp_noise", "identity", "stack", "rand"));
    v("map", map, "new blocks gather at the top or lie evenly", one_of("top", "even"));
    v("moments", moments, "optimizer's moments at growth", one_of("reset", "map", "map_zero_new"));
    v("ema_grow", ema_grow, "time constant of the running average that mogrow grows from, a duration");
    v("regularisation", regularisation,
      "settings that grow too, by path (\"model.resid_dropout\"): scale of the first stage, may be negative",
      at_most(1));
    v("regularisation_lists", regularisation_lists, "the same by a value for each stage");
    v("search", search, "automatic choice of the sizes; null: by the schedule above");
    v("plan", plan, "plan that carries out each stage's training");
  }
};

struct ActiveBlocks;  // autoprog_begin.h

class Autoprog : public Method {
 public:
  Autoprog(const Json& plan, const Stage& stage);
  const std::vector<GrowthSize>& schedule() const { return sizes_; }

 protected:
  std::optional<Part> part(int number, Results before) const override;

 private:
  // A piece of the training, as shares of it.
  struct Span {
    double from = 0, to = 1;
  };
  // Candidates of a stage and how they live in one supernet.
  struct Choices {
    std::vector<GrowthSize> sizes;
    int64_t base = 0, max = 0;  // blocks: of the network that candidates share, of the supernet
  };

  void set_sizes();
  void set_starts();
  Choices choices(int k, const std::optional<GrowthSize>& at) const;
  // Of each group of blocks, those of the supernet that a network of `blocks` blocks runs.
  std::vector<ActiveBlocks> active(const Choices& c, int64_t blocks) const;
  std::vector<int64_t> split(int64_t blocks) const;  // growing blocks of each group
  Selection decide(const Choices& c, const StageResult& searched, double w) const;

  Stage make(int number, std::string name, int k, const GrowthSize& size, Span span) const;
  Stage searching(int number, int k, const std::optional<GrowthSize>& at, const Choices& c) const;
  void regulate(Stage& stage, int k) const;
  void begin(Stage& stage, const std::optional<GrowthSize>& from, const GrowthSize& to) const;

  AutoprogConfig config_;
  Stage whole_;
  std::vector<int64_t> depths_;    // blocks of each group of the model
  int64_t depth_ = 0, grows_ = 0;  // of all groups, and how many of them may grow
  std::vector<GrowthSize> sizes_;  // of each stage, by the schedule
  std::vector<double> starts_;     // of each stage, and the end; shares of the training
  double search_ = 0;              // length of a search, the same
};

}  // namespace accrete
