// Tensor: memory with a shape. Row-major and contiguous; copies of a Tensor share the memory (a handle, like
// shared_ptr). reshape and slices along the first axis share storage; every other view is a copy made by an op.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/core/device.h"
#include "engine/core/dtype.h"
#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/core/shape.h"

namespace accrete {

struct GradMeta;  // belongs to engine/autograd

// Memory shared by tensors. The version counts writes in place, so that autograd notices when a saved tensor changed.
struct Storage {
  std::unique_ptr<Block> block;
  std::shared_ptr<void> outside;  // keeps memory alive that was not allocated here (a mapped file)
  void* data = nullptr;
  int64_t bytes = 0;
  uint64_t version = 0;
  const char* last_writer = "";
};

class Tensor {
 public:
  Tensor() = default;

  // Memory with undefined content.
  static Tensor empty(Shape shape, DType dtype = DType::f32, Device device = kCpu);
  static Tensor zeros(Shape shape, DType dtype = DType::f32, Device device = kCpu);
  // A copy of host values.
  template <class T>
  static Tensor from(const std::vector<T>& values, Shape shape, Device device = kCpu);
  // Wraps memory that somebody else owns and keeps `owner` alive.
  static Tensor wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t size(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  int64_t count() const { return shape_.count(); }
  int64_t bytes() const { return count() * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  // Typed pointer to the first element; T must match the dtype. The non-const-looking access is deliberate: a Tensor is
  // a handle.
  template <class T>
  T* ptr() const {
    check(dtype_of<std::remove_const_t<T>>() == dtype_, "tensor", "pointer type differs from the dtype; expected ",
          name_of(dtype_));
    return static_cast<T*>(data());
  }
  void* data() const {
    return storage_ && storage_->data ? static_cast<char*>(storage_->data) + offset_ * size_of(dtype_) : nullptr;
  }

  // Same memory, other shape with the same number of elements. Not recorded; ops::reshape is.
  Tensor view(Shape shape) const;
  // Rows [begin, end) of the first axis; shares memory. Not recorded.
  Tensor rows(int64_t begin, int64_t end) const;
  // `count` elements from `offset` of the flat memory; shares memory. Not recorded.
  Tensor flat(int64_t offset, int64_t count) const;
  // Without autograd history; shares memory.
  Tensor detach() const;

  // Shape, dtype, device and history without the memory: what a graph keeps of its inputs.
  Tensor stripped() const;

  // A deep copy (same device), or on another device.
  Tensor clone() const;
  Tensor to(Device device) const;
  // This tensor where host code may read it, else a copy on the CPU.
  Tensor on_host() const { return device_.host() ? *this : to(kCpu); }
  // Copies the values of `source` (same count and dtype) into this tensor's memory.
  void copy_from(const Tensor& source) const;
  void zero() const;
  // Copies bytes() bytes from or to host memory; they have arrived on return.
  void read(const void* host) const;
  void write(void* host) const;
  // All values on the host; bf16 and f16 are widened when T is float. For tests, printing and small results.
  template <class T>
  std::vector<T> to_vector() const;
  // The only element of a one-element tensor, as float.
  float item() const;

  uint64_t version() const { return storage_ ? storage_->version : 0; }
  // To be called by whoever writes into the memory of an existing tensor; `writer` is a string literal.
  void bump_version(const char* writer) const;
  const char* last_writer() const { return storage_ ? storage_->last_writer : ""; }
  bool same_storage(const Tensor& other) const { return storage_ == other.storage_; }
  // Identity of the memory, for accounts of who keeps what; null for a stripped tensor.
  const Storage* storage() const { return storage_.get(); }
  // True when nobody else holds this memory, so that it may be overwritten.
  bool unique() const { return storage_ && storage_.use_count() == 1; }

  const std::shared_ptr<GradMeta>& grad_meta() const { return grad_; }
  void set_grad_meta(std::shared_ptr<GradMeta> meta) { grad_ = std::move(meta); }

 private:
  void copy_between_devices(const Tensor& source) const;
  void fill_zero() const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // elements
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
  std::shared_ptr<GradMeta> grad_;
};

// Memory like t: same shape, dtype and device, undefined content.
inline Tensor like(const Tensor& t) { return Tensor::empty(t.shape(), t.dtype(), t.device()); }

// The only place that turns run-time device and dtype into template arguments:
//   on(x, [&]<class T>(const auto& dev) { kernels::gelu_forward<T>(dev, y.ptr<T>(), x.ptr<T>(), x.count()); });
template <class Fn>
void on(const Tensor& t, Fn&& fn) {
  on_device(t.device(), [&](const auto& dev) {
    if (t.dtype() == DType::f32) {
      fn.template operator()<float>(dev);
    } else if (t.dtype() == DType::bf16) {
      fn.template operator()<bf16>(dev);
    } else if (t.dtype() == DType::f16) {
      fn.template operator()<f16>(dev);
    } else {
      fail("tensor", "no arithmetic on dtype ", name_of(t.dtype()), "; expected f32, bf16 or f16");
    }
  });
}

}  // namespace accrete
