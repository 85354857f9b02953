// ParamStore: every weight of a model, by name, in flat buffers.
//
// Values, gradients and the rounded copy are each one flat tensor with the same offsets, so that the optimizer,
// clipping, EMA, checkpoints and averaging are loops over one range. Each entry says what its axes mean (Role), which
// makes growth generic.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/autograd/tape.h"
#include "engine/core/tensor.h"

namespace accrete {

// What an axis of a parameter is made of. A growth verb says "embed: 768 -> 384" and applies to every model.
enum class Role : uint8_t { none, embed, heads, mlp, vocab, grid };
std::string_view name_of(Role role);

// Size of an axis = parts * (count of the role) * unit. A fused qkv projection has rows {heads, parts 3, unit
// head_dim}. `input`: the axis is summed over when the parameter is used (columns of a Linear), so that merging its
// indices adds where others average.
struct Axis {
  Role role = Role::none;
  int parts = 1;
  int64_t unit = 1;
  bool input = false;
};
inline constexpr Axis kNone{Role::none}, kEmbed{Role::embed}, kMlp{Role::mlp}, kVocab{Role::vocab}, kGrid{Role::grid};
inline Axis heads_axis(int64_t head_dim, int parts = 1) { return {Role::heads, parts, head_dim}; }

struct Init {
  enum class Kind : uint8_t { zeros, ones, constant, normal, truncated, uniform, sincos2d } kind = Kind::zeros;
  float scale = 0.0f;  // the constant, standard deviation, half-width of the interval, or rows before the grid
  static Init zeros() { return {Kind::zeros, 0.0f}; }
  static Init ones() { return {Kind::ones, 0.0f}; }
  static Init constant(float value) { return {Kind::constant, value}; }
  static Init normal(float stddev) { return {Kind::normal, stddev}; }
  // A normal drawn again beyond two standard deviations, which leaves 0.87962566 of `stddev`.
  static Init truncated(float stddev) { return {Kind::truncated, stddev}; }
  static Init uniform(float half_width) { return {Kind::uniform, half_width}; }
  // Fixed positions of the cells of a square grid, after `extra` rows of zeros for special tokens. With p the column
  // for the first half of the C features and the row for the second, and m = C/4: sin(p w_k), then cos(p w_k), with
  // w_k = 10000^(-k/m), k < m (He et al. 2021).
  static Init sincos2d(int extra) { return {Kind::sincos2d, static_cast<float>(extra)}; }
};

// Where one matrix is both the input table and the output matrix (tied embeddings), growth must know both sides.
enum class Tie : uint8_t {
  none,
  table,  // looked up at the input and multiplied with at the output
  input,  // scale or shift of the last norm before that multiplication
};

// What growth has to know of a parameter beyond its axes; declared where the parameter is made.
struct Marks {
  Tie tie = Tie::none;
  bool branch_end = false;  // of the last linear layer of a residual branch: with zeros the branch adds nothing
  bool head = false;        // of an output layer, whose rows are classes or tokens
};

struct ParamEntry {
  std::string name;  // path of the code = name in files, logs and graph: "blocks.3.attn.qkv.weight"
  Shape shape;
  std::vector<Axis> axes;  // role of each axis
  Init init;
  std::string group;  // list of alike residual blocks it belongs to ("blocks"); empty: before or after them
  int block = -1;     // index of its block in the group; -1: none
  int number = -1;    // of its block, counted through all groups of the model in the order of declaration
  bool last = false;  // outside of blocks and declared after all: part of the model's end (final norm, output matrix)
  int stage = 0;      // index of the resolution stage of the model (VOLO); 0 for all others
  Marks marks;
  bool decay = true;  // takes part in weight decay
  bool trainable = true;
  // State beside the weights, kept and averaged with them, never trained, counted by no parameter count: the running
  // statistics of a batch norm, which the forward pass writes, and fixed tables of positions.
  bool buffer = false;
  int64_t offset = 0;  // elements from the start of the flat buffers
  int64_t count() const { return shape.count(); }
  // Name inside its block: "attn.qkv.weight"; the whole name outside of blocks.
  std::string local_name() const;
};

class ParamStore {
 public:
  ParamStore(DType compute, Device device) : compute_(compute), device_(device) {}
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Declares a parameter; returns its index. Names are unique. Only before allocate().
  int declare(ParamEntry entry);
  // Makes the flat buffers (values undefined) and the leaves.
  void allocate();
  // Draws all values: entry by entry from the address (seed, "init", name), so that models share what they have in
  // common.
  void initialise(uint64_t seed);

  const std::vector<ParamEntry>& entries() const { return entries_; }
  int find(std::string_view name) const;  // -1 when absent
  int64_t parameter_count() const;        // elements of all entries, without padding and buffers
  int64_t trainable_count() const;
  bool has_running_statistics() const;                // of batch norms: buffers that forward passes in training write
  int64_t flat_count() const { return flat_count_; }  // length of the flat buffers, with padding (zeros)
  DType compute_dtype() const { return compute_; }
  Device device() const { return device_; }

  // What ops use: a leaf in the compute type for matrices (two or more axes), f32 for vectors.
  const Tensor& leaf(int index) const { return leaves_[static_cast<size_t>(index)]; }
  // The f32 master value / gradient of one entry, in its shape; shares memory with the flat buffers.
  Tensor value(int index) const;
  Tensor grad(int index) const;
  const Tensor& values() const { return values_; }  // (flat_count) f32
  const Tensor& grads() const { return grads_; }    // (flat_count) f32; made by the first call of zero_grads
  const Tensor& copy() const { return copy_; }      // (flat_count) bf16 or f16; undefined when computing in f32

  // To be called after the values were written by anything but the optimizer: renews the rounded copy.
  void refresh();
  void zero_grads();
  // Frozen parameters get no gradient and no optimizer step. Buffers stay frozen whatever is asked.
  void set_trainable(int index, bool trainable);

 private:
  void make_leaf(size_t i);

  DType compute_;
  Device device_;
  std::vector<ParamEntry> entries_;
  int64_t flat_count_ = 0;
  Tensor values_, grads_, copy_;
  std::vector<Tensor> leaves_;
};

// Handle of one parameter, held by layers. Calling it gives the leaf tensor.
class Param {
 public:
  Param() = default;
  Param(ParamStore* store, int index) : store_(store), index_(index) {}
  const Tensor& operator()() const;  // undefined tensor for an absent parameter
  bool present() const { return store_ != nullptr; }
  int index() const { return index_; }

 private:
  ParamStore* store_ = nullptr;
  int index_ = -1;
};

// Where a layer declares its parameters: Attention(Scope s) : qkv(s / "qkv", ...).
class Scope {
 public:
  explicit Scope(ParamStore& store) : store_(&store) {}
  Scope operator/(std::string_view name) const;
  // The scope is block number `block` of a group; its path ends in that number: "blocks.3".
  Scope in_block(int block) const;
  Scope in_stage(int stage) const;
  Param param(std::string_view name, Shape shape, std::vector<Axis> axes, Init init, bool decay,
              Marks marks = {}) const;
  Param buffer(std::string_view name, Shape shape, std::vector<Axis> axes, Init init, Marks marks = {}) const;
  const std::string& path() const { return path_; }

 private:
  Param declare(std::string_view name, Shape shape, std::vector<Axis> axes, Init init, bool decay, Marks marks,
                bool buffer) const;

  ParamStore* store_;
  std::string path_, group_;
  int block_ = -1;
  int stage_ = 0;
};

}  // namespace accrete
