#include "kernels/attention_choice.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace accrete::kernels {

namespace {

constexpr int64_t kElement = 2;                       // bytes of a 16-bit type
constexpr int64_t kLeastProducts = int64_t{1} << 28;  // multiply-adds of q k^T: a microsecond or two on a large GPU
constexpr float kClearlyFaster = 0.97f;               // of our time
constexpr int kRepeats = 2;

template <class P>
P* moved(P* p, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<P>, const char, char>;
  return p ? reinterpret_cast<P*>(reinterpret_cast<Byte*>(p) + bytes) : nullptr;
}

// Whether b and c follow a as the next thirds of a packed row.
bool side_by_side(const void* a, const void* b, const void* c, const AttentionShape& s) {
  const int64_t width = s.heads * s.head_dim * kElement;
  return b == static_cast<const char*>(a) + width && c == static_cast<const char*>(b) + width;
}

bool agree(const ResultSample& ours, const ResultSample& theirs) {
  const size_t row = static_cast<size_t>(ours.row), n = ours.values.size();
  if (theirs.values.size() != n || n == 0) return false;
  const auto mean = [&](size_t begin, size_t end, bool of_difference) {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) {
      const double x = ours.values[i], d = x - theirs.values[i];
      sum += of_difference ? d * d : x * x;
    }
    return std::sqrt(sum / static_cast<double>(end - begin));
  };
  const double all = mean(0, n, false), tolerance = ours.tolerance;
  if (!(all > 0) || !(mean(0, n, true) <= tolerance * all)) return false;  // written so that NaN fails
  for (size_t i = 0; i < n; i += row) {
    const size_t end = std::min(i + row, n);
    if (!(mean(i, end, true) <= tolerance * (4 * mean(i, end, false) + all / 16))) return false;
  }
  return true;
}

bool same_bits(const std::vector<ResultSample>& a, const std::vector<ResultSample>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const ResultSample& x, const ResultSample& y) {
    return x.values.size() == y.values.size() &&
           std::memcmp(x.values.data(), y.values.data(), x.values.size() * sizeof(float)) == 0;
  });
}

// Right, and the same every time.
bool is_sound(AttentionTrial& trial, int way, const std::vector<ResultSample>& ours) {
  trial.spoil();
  if (!trial.run(way)) return false;
  const std::vector<ResultSample> first = trial.results();
  if (!samples_agree(ours, first)) return false;
  for (int i = 0; i < kRepeats; ++i) {
    trial.spoil();
    if (!trial.run(way) || !same_bits(first, trial.results())) return false;
  }
  return true;
}

}  // namespace

AttentionOperands entries_from(const AttentionOperands& x, const AttentionShape& s, int64_t first) {
  const int64_t packed = first * s.q_batch * kElement, plain = first * s.q_len * s.heads * s.head_dim * kElement;
  const int64_t rows = first * s.heads * s.q_len * int64_t{sizeof(float)};
  return {.q = moved(x.q, packed),
          .k = moved(x.k, packed),
          .v = moved(x.v, packed),
          .o = moved(x.o, plain),
          .lse = moved(x.lse, rows),
          .d_o = moved(x.d_o, plain),
          .dq = moved(x.dq, packed),
          .dk = moved(x.dk, packed),
          .dv = moved(x.dv, packed),
          .delta = moved(x.delta, rows)};
}

bool cudnn_may_serve(GemmType type, const AttentionShape& s, const AttentionOperands& x) {
  if (type == GemmType::f32 || s.dropout > 0.0f || !(s.scale > 0.0f)) return false;
  if (s.head_dim % 8 != 0 || s.head_dim > 128 || s.q_len != s.kv_len) return false;
  const int64_t row = 3 * s.heads * s.head_dim, batch = s.q_len * row;
  if (s.q_row != row || s.kv_row != row || s.q_batch != batch || s.kv_batch != batch) return false;
  if (!side_by_side(x.q, x.k, x.v, s) || (x.backward() && !side_by_side(x.dq, x.dk, x.dv, s))) return false;
  return s.batch * s.heads * s.q_len * s.kv_len * s.head_dim >= kLeastProducts;
}

int64_t entries_at_once(const AttentionShape& s, bool backward) {
  if (!backward) return s.batch;
  const int64_t length = (s.q_len + 127) / 128 * 128, scores = s.heads * length * length * 2;
  for (int64_t launches = 1; launches <= s.batch; ++launches)
    if (s.batch % launches == 0 && s.batch / launches * scores <= kAttentionScores) return s.batch / launches;
  return 0;
}

std::string attention_key(const std::string& device_name, int64_t cudnn_version, GemmType type, const AttentionShape& s,
                          bool backward) {
  std::string text = one_word(device_name) + " cudnn " + std::to_string(cudnn_version) + " attention " +
                     (backward ? "backward" : "forward");
  for (const auto& [name, size] : {std::pair{"B", s.batch}, {"T", s.q_len}, {"H", s.heads}, {"D", s.head_dim}})
    text += std::string(" ") + name + " " + std::to_string(size);
  return text + (s.causal ? " causal " : " full ") + name_of(type);
}

bool samples_agree(const std::vector<ResultSample>& ours, const std::vector<ResultSample>& theirs) {
  return std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end(), agree);
}

AttentionChoice choose_attention(AttentionTrial& trial) {
  trial.run(0);
  const std::vector<ResultSample> ours = trial.results();
  std::vector<int> racing(1, 0);
  for (int way = 1; way < trial.ways(); ++way)
    if (is_sound(trial, way, ours)) racing.push_back(way);
  AttentionChoice choice;
  if (racing.size() == 1) return choice;
  const std::vector<float> us = trial.race(racing);
  const auto best = std::min_element(us.begin() + 1, us.end());
  choice.ours_us = us[0];
  choice.theirs_us = *best;
  if (*best < kClearlyFaster * us[0]) choice.way = racing[static_cast<size_t>(best - us.begin())];
  return choice;
}

PlanRecord attention_record(const AttentionChoice& choice, uint64_t position, uint64_t engine, uint64_t workspace) {
  const auto tenths = [](double us) { return static_cast<uint64_t>(std::llround(std::fmin(us, 1e12) * 10)); };
  PlanRecord r;
  r.fused = choice.way > 0;
  r.timed = choice.theirs_us > 0;
  r.microseconds = r.fused ? choice.theirs_us : choice.ours_us;
  r.workspace = workspace;
  r.algorithm = {position, engine, tenths(choice.ours_us), tenths(choice.theirs_us)};
  return r;
}

}  // namespace accrete::kernels
