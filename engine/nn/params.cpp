#include "engine/nn/params.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/core/random.h"
#include "kernels/cast.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"

namespace accrete {
namespace {

// Entries start at multiples of 32 elements: 64 bytes in bf16, 128 in f32.
constexpr int64_t kPadding = 32;

// Box-Muller makes two numbers of two words of the address; the first within 2 is taken, and where neither is, the next
// address is asked. On the host, one by one: for tables and heads, not for the matrices of a large model.
std::vector<float> truncated_normal(int64_t n, float stddev, const RandomKey& key) {
  const auto within = [&](uint64_t index) {
    for (uint64_t attempt = 0;; ++attempt) {
      const Philox4 w = random_words(key, index + attempt * static_cast<uint64_t>(n));
      const double radius = std::sqrt(-2.0 * std::log((w.v[0] + 1.0) / 4294967296.0));
      const double angle = 2.0 * std::numbers::pi * w.v[1] / 4294967296.0;
      for (const double z : {radius * std::cos(angle), radius * std::sin(angle)})
        if (std::abs(z) <= 2.0) return static_cast<float>(stddev * z);
    }
  };
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = within(i);
  return values;
}

// (extra + g * g, C); see Init::sincos2d.
std::vector<float> sincos_grid(const Shape& shape, int64_t extra) {
  const int64_t cells = shape[0] - extra, C = shape[1], m = C / 4;
  const auto g = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(cells))));
  check(C % 4 == 0 && g * g == cells, "params", "no sine and cosine positions of shape ", shape,
        "; expected a square grid and a width that 4 divides");
  std::vector<float> values(static_cast<size_t>(shape.count()), 0.0f);
  float* v = values.data() + extra * C;
  for (int64_t row = 0; row < g; ++row)
    for (int64_t col = 0; col < g; ++col)
      for (const int64_t p : {col, row}) {
        for (int64_t k = 0; k < m; ++k, ++v) {
          const double w = std::pow(10000.0, -static_cast<double>(k) / static_cast<double>(m));
          v[0] = static_cast<float>(std::sin(static_cast<double>(p) * w));
          v[m] = static_cast<float>(std::cos(static_cast<double>(p) * w));
        }
        v += m;
      }
  return values;
}

}  // namespace

std::string_view name_of(Role role) {
  switch (role) {
    case Role::none:
      return "none";
    case Role::embed:
      return "embed";
    case Role::heads:
      return "heads";
    case Role::mlp:
      return "mlp";
    case Role::vocab:
      return "vocab";
    case Role::grid:
      return "grid";
  }
  return "?";
}

std::string ParamEntry::local_name() const {
  return block < 0 ? name : name.substr(group.size() + 1 + std::to_string(block).size() + 1);
}

int ParamStore::declare(ParamEntry entry) {
  check(!values_.defined(), "params", "\"", entry.name, "\" declared after the store was allocated");
  check(find(entry.name) < 0, "params", "\"", entry.name, "\" declared twice");
  check(static_cast<int>(entry.axes.size()) == entry.shape.rank(), "params", "\"", entry.name, "\" of shape ",
        entry.shape, " names ", entry.axes.size(), " axis roles");
  entry.number = -1;
  if (entry.block >= 0)
    for (auto e = entries_.rbegin(); e != entries_.rend() && entry.number < 0; ++e)
      if (e->number >= 0) entry.number = e->number + (e->group != entry.group || e->block != entry.block);
  if (entry.block >= 0 && entry.number < 0) entry.number = 0;
  if (entry.block < 0)
    for (const ParamEntry& e : entries_) entry.last = entry.last || e.block >= 0;
  else
    for (ParamEntry& e : entries_) e.last = false;  // between groups of blocks: not the end
  entry.offset = flat_count_;
  flat_count_ += (entry.count() + kPadding - 1) / kPadding * kPadding;
  entries_.push_back(std::move(entry));
  return static_cast<int>(entries_.size()) - 1;
}

void ParamStore::allocate() {
  const SegmentScope segment(Segment::params);
  values_ = Tensor::zeros(Shape{flat_count_}, DType::f32, device_);
  if (is_half(compute_)) copy_ = Tensor::zeros(Shape{flat_count_}, compute_, device_);
  leaves_.resize(entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) make_leaf(i);
}

void ParamStore::make_leaf(size_t i) {
  const ParamEntry& e = entries_[i];
  const bool narrow = is_half(compute_) && e.shape.rank() >= 2;
  const Tensor t = (narrow ? copy_ : values_).flat(e.offset, e.count()).view(e.shape);
  leaves_[i] = e.trainable ? require_grad(t, grads_.defined() ? grad(static_cast<int>(i)) : Tensor(), e.name) : t;
}

void ParamStore::initialise(uint64_t seed) {
  on_device(device_, [&](const auto& dev) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      const ParamEntry& e = entries_[i];
      const Tensor v = value(static_cast<int>(i));
      float* p = v.ptr<float>();
      const RandomKey key = random_key(seed, "init:" + e.name);
      switch (e.init.kind) {
        case Init::Kind::zeros:
          kernels::fill<float>(dev, p, 0.0f, e.count());
          break;
        case Init::Kind::ones:
          kernels::fill<float>(dev, p, 1.0f, e.count());
          break;
        case Init::Kind::constant:
          kernels::fill<float>(dev, p, e.init.scale, e.count());
          break;
        case Init::Kind::normal:
          kernels::random_normal<float>(dev, p, e.count(), 0.0f, e.init.scale, key, 0);
          break;
        case Init::Kind::truncated:
          v.copy_from(Tensor::from(truncated_normal(e.count(), e.init.scale, key), e.shape));
          break;
        case Init::Kind::uniform:
          kernels::random_uniform<float>(dev, p, e.count(), -e.init.scale, e.init.scale, key, 0);
          break;
        case Init::Kind::sincos2d:
          v.copy_from(Tensor::from(sincos_grid(e.shape, static_cast<int64_t>(e.init.scale)), e.shape));
          break;
      }
    }
  });
  refresh();
}

int ParamStore::find(std::string_view name) const {
  for (size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].name == name) return static_cast<int>(i);
  return -1;
}

int64_t ParamStore::parameter_count() const {
  int64_t n = 0;
  for (const ParamEntry& e : entries_) n += e.buffer ? 0 : e.count();
  return n;
}

bool ParamStore::has_running_statistics() const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const ParamEntry& e) { return e.buffer && e.init.kind != Init::Kind::sincos2d; });
}

int64_t ParamStore::trainable_count() const {
  int64_t n = 0;
  for (const ParamEntry& e : entries_) n += e.trainable ? e.count() : 0;
  return n;
}

Tensor ParamStore::value(int index) const {
  const ParamEntry& e = entries_.at(static_cast<size_t>(index));
  return values_.flat(e.offset, e.count()).view(e.shape);
}

Tensor ParamStore::grad(int index) const {
  const ParamEntry& e = entries_.at(static_cast<size_t>(index));
  return grads_.flat(e.offset, e.count()).view(e.shape);
}

void ParamStore::refresh() {
  values_.bump_version("refresh");
  if (!copy_.defined()) return;
  on(copy_, [&]<class T>(const auto& dev) {
    if constexpr (!std::is_same_v<T, float>)
      kernels::cast_from_f32(dev, copy_.ptr<T>(), values_.ptr<float>(), flat_count_);
  });
  copy_.bump_version("refresh");
}

void ParamStore::zero_grads() {
  if (grads_.defined()) {
    grads_.zero();
    return;
  }
  const SegmentScope segment(Segment::grads);
  grads_ = Tensor::zeros(Shape{flat_count_}, DType::f32, device_);
  for (size_t i = 0; i < entries_.size(); ++i) make_leaf(i);
}

void ParamStore::set_trainable(int index, bool trainable) {
  ParamEntry& e = entries_.at(static_cast<size_t>(index));
  e.trainable = trainable && !e.buffer;
  if (values_.defined()) make_leaf(static_cast<size_t>(index));
}

const Tensor& Param::operator()() const {
  static const Tensor absent;
  return store_ ? store_->leaf(index_) : absent;
}

Scope Scope::operator/(std::string_view name) const {
  Scope s = *this;
  s.path_ = path_.empty() ? std::string(name) : path_ + "." + std::string(name);
  return s;
}

Scope Scope::in_block(int block) const {
  const std::string number = "." + std::to_string(block);
  check(path_.ends_with(number) && path_.size() > number.size(), "params", "\"", path_, "\" is not block ", block,
        " of a group; expected a path like blocks", number);
  Scope s = *this;
  s.group_ = path_.substr(0, path_.size() - number.size());
  s.block_ = block;
  return s;
}

Scope Scope::in_stage(int stage) const {
  Scope s = *this;
  s.stage_ = stage;
  return s;
}

Param Scope::param(std::string_view name, Shape shape, std::vector<Axis> axes, Init init, bool decay,
                   Marks marks) const {
  return declare(name, shape, std::move(axes), init, decay, marks, false);
}

Param Scope::buffer(std::string_view name, Shape shape, std::vector<Axis> axes, Init init, Marks marks) const {
  return declare(name, shape, std::move(axes), init, false, marks, true);
}

Param Scope::declare(std::string_view name, Shape shape, std::vector<Axis> axes, Init init, bool decay, Marks marks,
                     bool buffer) const {
  ParamEntry e;
  e.name = (*this / name).path();
  e.shape = shape;
  e.axes = std::move(axes);
  e.init = init;
  e.group = group_;
  e.block = block_;
  e.marks = marks;
  e.stage = stage_;
  e.decay = decay;
  e.buffer = buffer;
  e.trainable = !buffer;
  return Param(store_, store_->declare(std::move(e)));
}

}  // namespace accrete
