// Attention through cuDNN where it is the faster: plans for each shape, timed once against our kernels
// (kernels/attention_choice.h has the rules).
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>

#include "kernels/cuda/attention_graph.h"
#include "kernels/cuda/gemm_plans.h"
#include "kernels/cuda/stopwatch.h"
#include "kernels/runtime.h"

namespace accrete::kernels {
namespace {

using dnn::AttentionGraph, dnn::AttentionPlan;

constexpr uint64_t kMostPlans = 2;                  // cuDNN's first suggestions; each takes a second or so to build
constexpr int64_t kSampleBytes = int64_t{4} << 20;  // from each end of a result

// What cuDNN has on one GPU. Kept until the process ends: recorded launches refer to the scratch.
struct Library {
  cudnnHandle_t handle = nullptr;
  void* own_scratch = nullptr;
  bool needed = false;  // own_scratch, by a way that was chosen

  explicit Library(const Cuda& ctx) {
    ACCRETE_CUDA(cudaSetDevice(ctx.device));
    ACCRETE_DNN(cudnn()->Create(&handle));
  }
  // Room for a plan; null without memory for it.
  void* scratch(const Cuda& ctx, int64_t bytes) {
    if (bytes <= ctx.workspace_bytes) return ctx.workspace;
    if (!own_scratch) own_scratch = device_allocate(ctx, kAttentionScratch);
    return own_scratch;
  }
  // After a choice: what only losers wanted is given back.
  void settle(const Cuda& ctx, const void* chosen) {
    needed = needed || (chosen && chosen == own_scratch);
    if (needed || !own_scratch) return;
    device_release(ctx, own_scratch, kAttentionScratch);
    own_scratch = nullptr;
  }
};

// One call: what a choice is made for.
struct Call {
  const Cuda& ctx;
  GemmType type;
  const AttentionShape& s;
  const AttentionOperands& x;
};

// cuDNN's way for one shape: a plan for some entries of the batch, run until all have been.
struct Way {
  std::shared_ptr<const AttentionGraph> graph;
  AttentionPlan plan;
  int64_t entries;
  void* scratch;

  void run(const Call& c) const {
    for (int64_t first = 0; first < c.s.batch; first += entries)
      graph->run(static_cast<cudaStream_t>(c.ctx.stream), plan, entries_from(c.x, c.s, first), c.s.scale, scratch);
  }
};

// The plan at a position of cuDNN's list, ready to run; nothing where it cannot be had.
std::optional<Way> way_at(const Call& c, Library& library, const std::shared_ptr<const AttentionGraph>& graph,
                          uint64_t position) {
  std::optional<AttentionPlan> plan = graph->plan(position);
  if (!plan) return std::nullopt;
  void* const scratch = library.scratch(c.ctx, plan->scratch);
  if (!scratch) return std::nullopt;
  return Way{graph, std::move(*plan), entries_at_once(c.s, c.x.backward()), scratch};
}

std::shared_ptr<const AttentionGraph> graph_of(const Call& c, const Library& library) {
  const int64_t entries = entries_at_once(c.s, c.x.backward());
  if (entries == 0) return nullptr;
  return std::make_shared<const AttentionGraph>(library.handle, c.type, c.s, entries, c.x.backward());
}

class Trial : public AttentionTrial {
 public:
  Trial(const Call& call, const OurAttention& ours, Library& library) : c_(call), ours_(ours) {
    try {
      const auto graph = graph_of(c_, library);
      for (uint64_t position = 1; graph && position <= kMostPlans; ++position)
        if (auto way = way_at(c_, library, graph, position)) ways_.push_back(std::move(*way));
    } catch (const dnn::Refusal&) {  // the graph as a whole: no ways
    }
  }
  Way& way(int i) { return ways_[static_cast<size_t>(i - 1)]; }

  int ways() const override { return 1 + static_cast<int>(ways_.size()); }
  bool run(int i) override {
    if (i == 0) return ours_(c_.x.d_o), true;
    try {
      way(i).run(c_);
      return true;
    } catch (const dnn::Refusal&) {
      return false;
    }
  }
  void spoil() override {
    for (const Result& r : written()) fill_bytes(c_.ctx, r.p, 0xff, r.row_bytes * r.rows);
  }
  std::vector<ResultSample> results() override {
    std::vector<ResultSample> samples;
    for (const Result& r : written()) {
      const int64_t rows = std::min(r.rows, std::max<int64_t>(1, kSampleBytes / r.row_bytes));
      std::vector<char> bytes(static_cast<size_t>(2 * rows * r.row_bytes));
      copy_out(c_.ctx, bytes.data(), r.p, rows * r.row_bytes);
      copy_out(c_.ctx, bytes.data() + rows * r.row_bytes, r.p + (r.rows - rows) * r.row_bytes, rows * r.row_bytes);
      take(samples, bytes, r);
    }
    return samples;
  }
  std::vector<float> race(const std::vector<int>& racing) override {
    const lt::Stopwatch watch(c_.ctx);
    bool refused = false;
    const auto once = [&](size_t i) { refused = !run(racing[i]) || refused; };
    std::vector<float> ms;
    for (size_t i = 0; i < racing.size(); ++i) ms.push_back(watch.milliseconds([&] { once(i); }));
    ms = lt::race(watch, ms, once);
    for (float& t : ms) t *= refused ? std::numeric_limits<float>::infinity() : 1e3f;  // nobody wins then
    return ms;
  }

 private:
  // Memory that is written, of `parts` tensors side by side in every row; 0: f32.
  struct Result {
    char* p;
    int64_t rows, row_bytes;
    int parts;
  };
  std::vector<Result> written() const {
    const int64_t tokens = c_.s.batch * c_.s.q_len, width = 2 * c_.s.heads * c_.s.head_dim;
    if (c_.x.backward()) return {{static_cast<char*>(c_.x.dq), tokens, 3 * width, 3}};
    return {{static_cast<char*>(c_.x.o), tokens, width, 1},
            {reinterpret_cast<char*>(c_.x.lse), c_.s.batch * c_.s.heads, 4 * c_.s.q_len, 0}};
  }
  void take(std::vector<ResultSample>& samples, const std::vector<char>& bytes, const Result& r) const {
    if (r.parts == 0) {
      ResultSample lse{.tolerance = kLseTolerance};
      lse.values.resize(bytes.size() / sizeof(float));
      std::memcpy(lse.values.data(), bytes.data(), bytes.size());
      samples.push_back(std::move(lse));
      return;
    }
    std::vector<uint16_t> values(bytes.size() / sizeof(uint16_t));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    const size_t width = static_cast<size_t>(c_.s.heads * c_.s.head_dim), parts = static_cast<size_t>(r.parts);
    for (size_t part = 0; part < parts; ++part) {
      ResultSample sample{.row = c_.s.head_dim, .tolerance = kResultTolerance};
      for (size_t at = part * width; at < values.size(); at += parts * width)
        for (size_t i = at; i < at + width; ++i)
          sample.values.push_back(c_.type == GemmType::bf16 ? to_float(bf16{values[i]}) : to_float(f16{values[i]}));
      samples.push_back(std::move(sample));
    }
  }

  const Call& c_;
  const OurAttention& ours_;
  std::vector<Way> ways_;
};

// All choices of the process, under the lock of the plans of products, with which they share the file.
class Choices {
 public:
  // Null: ours.
  const Way* find_or_choose(const Call& c, const OurAttention& ours) {
    lt::Plans& plans = lt::Plans::all();
    const std::string name = attention_key(plans.device_name(c.ctx.device), static_cast<int64_t>(cudnn()->GetVersion()),
                                           c.type, c.s, c.x.backward());
    const auto [entry, first] = ways_.try_emplace({c.ctx.device, name});
    // A shape that is first met while launches are recorded stays with ours until the process ends: nothing can be
    // timed then, and starting cuDNN may wait for the device.
    if (first && !c.ctx.capturing) entry->second = choose(c, name, plans.file(), ours);
    return entry->second ? &*entry->second : nullptr;
  }

 private:
  std::optional<Way> choose(const Call& c, const std::string& name, PlanFile& file, const OurAttention& ours) {
    const PlanRecord* known = file.find(name);
    if (known && !known->fused) return std::nullopt;
    try {
      Library& library = libraries_.try_emplace(c.ctx.device, c.ctx).first->second;
      std::optional<Way> way;
      if (!known) {
        const PlanRecord record = time_all(c, ours, library, way);
        file.add(name, record);
        known = file.find(name);  // another process may have chosen meanwhile; a resumed run will find its choice
        if (known && *known == record) known = nullptr;
      }
      if (known) way = known->fused ? recorded(c, library, *known) : std::nullopt;
      library.settle(c.ctx, way ? way->scratch : nullptr);
      return way;
    } catch (const dnn::Refusal&) {  // cuDNN does not start here, or not for this: ours
      return std::nullopt;
    }
  }

  static std::optional<Way> recorded(const Call& c, Library& library, const PlanRecord& record) {
    const auto graph = graph_of(c, library);
    if (!graph) return std::nullopt;
    std::optional<Way> way = way_at(c, library, graph, record.algorithm[0]);
    if (way && way->plan.engine != record.algorithm[1]) way.reset();
    return way;
  }

  // `way` receives the winner when it is not ours.
  static PlanRecord time_all(const Call& c, const OurAttention& ours, Library& library, std::optional<Way>& way) {
    AttentionOperands x = c.x;
    const Call call{c.ctx, c.type, c.s, x};
    Trial trial(call, ours, library);
    if (x.backward()) {
      trial.run(0);
      if (only_zeros(trial.results())) x.d_o = x.o;
    }
    const AttentionChoice choice = choose_attention(trial);
    if (choice.way == 0) return attention_record(choice, 0, 0, 0);
    way = std::move(trial.way(choice.way));
    const AttentionPlan& plan = way->plan;
    return attention_record(choice, plan.position, plan.engine, static_cast<uint64_t>(plan.scratch));
  }

  std::map<int, Library> libraries_;
  std::map<std::pair<int, std::string>, std::optional<Way>> ways_;
};

}  // namespace

bool attention_by_cudnn(const Cuda& ctx, GemmType type, const AttentionShape& s, const AttentionOperands& x,
                        const OurAttention& ours) {
  if (!cudnn_may_serve(type, s, x)) return false;
  lt::Plans& plans = lt::Plans::all();
  if (!plans.timing() || !cudnn()) return false;
  static Choices* choices = new Choices;  // never destroyed: the library may be gone before static objects are
  const std::lock_guard lock(plans.mutex());
  const Call call{ctx, type, s, x};
  const Way* const way = choices->find_or_choose(call, ours);
  if (!way) return false;
  way->run(call);
  if (ctx.sync_each && !ctx.capturing) ACCRETE_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(ctx.stream)));
  return true;
}

}  // namespace accrete::kernels
