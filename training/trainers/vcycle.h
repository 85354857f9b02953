// Multi-level training, a V-cycle over sizes of the model (Zou et al., ICLR 2024, arXiv 2404.07999).   Card: vcycle.md
//
//   for each level but the last:  train M_k for a moment, keep it, coalesce it into the smaller M_k+1
//   train the smallest
//   for each level back up:       de-coalesce M_k+1, mix it with the kept M_k, train the mixture
//
// Level 1 is the whole model, level k has 1 / ratio^(k-1) of its width, heads and depth.
#pragma once

#include "training/grow.h"
#include "training/method.h"

namespace accrete {

// How one level is trained, apart from the moment before it is made smaller.
struct VCycleLevel {
  std::string duration = "0.5run";
  double lr_factor = 2;
  std::string warmup = "0.01run";
  Json schedule = Json::object();
  Json plan = Json{{"name", "plain"}};

  template <class V>
  void fields(V& v) {
    v("duration", duration, "length of the stage; run: the training that the V-cycle carries out");
    v("lr_factor", lr_factor, "learning rate of this level, as a multiple of optim.lr", above(0));
    v("warmup", warmup, "linear warm-up at the start of the stage; run: as in duration");
    v("schedule", schedule, "what differs from the recipe's schedule; run: this stage");
    v("plan", plan, "how the stage is carried out");
  }
};

struct VCycleConfig {
  std::string name = "vcycle";
  int64_t levels = 2;
  std::vector<std::string> grow = {"width", "depth"};
  int64_t ratio = 2;
  std::string width_pairs = "half", depth_pairs = "adjacent";
  std::string tied = "exact", split = "equal", depth_copy = "copy";
  double w_dec = 0.75;
  std::string moments = "reset";
  bool evaluate_first = true;
  std::string warm = "0.05run";
  std::vector<VCycleLevel> small;
  VCycleLevel final{.duration = "0.65run", .lr_factor = 1};

  template <class V>
  void fields(V& v) {
    v("name", name, "plan");
    v("levels", levels, "sizes of the model, the whole one included", between(2, 8));
    v("grow", grow, "what shrinks and grows", one_of("width", "depth"));
    v("ratio", ratio, "size of a level, divided by the size of the next", between(2, 16));
    v("width_pairs", width_pairs, "which channels, heads and hidden units merge: i with i + n/ratio, or neighbours",
      one_of("half", "adjacent"));
    v("depth_pairs", depth_pairs, "which blocks merge: neighbours, or i with i + n/ratio", one_of("half", "adjacent"));
    v("tied", tied, "tied embeddings: exact preserves the function, released is as in the published code",
      one_of("exact", "released", "half_stream"));
    v("split", split, "how the copies of an index share its input weights: equally, or at random (LEMON)",
      one_of("equal", "lemon"));
    v("depth_copy", depth_copy,
      "copies of a block: all alike; the second ones silent (preserves the function); or branches divided by ratio",
      one_of("copy", "zero_second", "half_branch"));
    v("w_dec", w_dec, "weight of the de-coalesced model in the mixture; 1 - w_dec is that of the kept one",
      between(0, 1));
    v("moments", moments, "the optimizer's moments at a change of level", one_of("reset", "carry"));
    v("evaluate_first", evaluate_first, "evaluate after each change of level too");
    v("warm", warm, "training of each level before it is coalesced: the ramp of its learning rate; run: as in final");
    v("small", small, "the lower levels, from the second largest down; empty: all with the default settings");
    v("final", final, "the whole model");
  }
};

class VCycle : public Method {
 public:
  VCycle(const Json& plan, const Stage& stage);

 protected:
  std::optional<Part> part(int number, Results before) const override;

 private:
  const VCycleLevel& level(int k) const { return k == 0 ? config_.final : config_.small[static_cast<size_t>(k) - 1]; }

  VCycleConfig config_;
  Stage stage_;
  std::vector<Json> models_;               // config of each level, the whole model first
  std::vector<ScheduleConfig> schedules_;  // of each level
};

// The model one level down, and one level up: pure functions of the weights and of the sizes that `like` has. The
// groups of merged indices are the same in both directions, so that coalesced(decoalesced(x)) is x.
Snapshot coalesced(const Snapshot& from, const std::vector<ParamEntry>& like, const VCycleConfig& config);
Snapshot decoalesced(const Snapshot& from, const std::vector<ParamEntry>& like, const VCycleConfig& config,
                     uint64_t seed);

}  // namespace accrete
