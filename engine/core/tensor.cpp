#include "engine/core/tensor.h"

#include <cstring>

#include "kernels/runtime.h"

namespace accrete {
namespace {

template <class Narrow>
std::vector<float> widened(const Tensor& t) {
  const std::vector<Narrow> values = t.to_vector<Narrow>();
  std::vector<float> out(values.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = to_float(values[i]);
  return out;
}

}  // namespace

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.device_ = device;
  t.storage_ = std::make_shared<Storage>();
  t.storage_->bytes = t.bytes();
  t.storage_->block = allocate(device, t.bytes());
  t.storage_->data = t.storage_->block->data;
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill_zero();
  return t;
}

template <class T>
Tensor Tensor::from(const std::vector<T>& values, Shape shape, Device device) {
  check(static_cast<int64_t>(values.size()) == shape.count(), "tensor", "number of values does not fit the shape ",
        shape, "; got ", values.size());
  Tensor t = empty(shape, dtype_of<T>(), device);
  t.read(values.data());
  return t;
}
template Tensor Tensor::from(const std::vector<float>&, Shape, Device);
template Tensor Tensor::from(const std::vector<bf16>&, Shape, Device);
template Tensor Tensor::from(const std::vector<f16>&, Shape, Device);
template Tensor Tensor::from(const std::vector<int32_t>&, Shape, Device);
template Tensor Tensor::from(const std::vector<int64_t>&, Shape, Device);
template Tensor Tensor::from(const std::vector<uint8_t>&, Shape, Device);

Tensor Tensor::wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>();
  t.storage_->data = data;
  t.storage_->bytes = t.bytes();
  t.storage_->outside = std::move(owner);
  return t;
}

Tensor Tensor::view(Shape shape) const {
  check(shape.count() == count(), "view", "number of elements differs; expected ", count(), " for ", shape_, "; got ",
        shape);
  Tensor t = detach();
  t.shape_ = shape;
  return t;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  check(rank() >= 1 && 0 <= begin && begin <= end && end <= size(0), "rows", "range [", begin, ", ", end,
        ") does not fit ", shape_);
  std::vector<int64_t> sizes = shape_.vector();
  const int64_t row = sizes[0] > 0 ? count() / sizes[0] : 0;
  sizes[0] = end - begin;
  Tensor t = detach();
  t.shape_ = Shape(sizes);
  t.offset_ = offset_ + begin * row;
  return t;
}

Tensor Tensor::flat(int64_t offset, int64_t n) const {
  check(0 <= offset && 0 <= n && offset + n <= count(), "flat", "range [", offset, ", ", offset + n, ") exceeds ",
        count(), " elements");
  Tensor t = detach();
  t.shape_ = Shape{n};
  t.offset_ = offset_ + offset;
  return t;
}

Tensor Tensor::detach() const {
  Tensor t = *this;
  t.grad_ = nullptr;
  return t;
}

Tensor Tensor::stripped() const {
  Tensor t = *this;
  t.storage_ = nullptr;
  return t;
}

Tensor Tensor::clone() const { return to(device_); }

Tensor Tensor::to(Device device) const {
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) const {
  check(source.count() == count() && source.dtype_ == dtype_, "copy", "source does not fit; expected ", shape_, " ",
        name_of(dtype_), "; got ", source.shape_, " ", name_of(source.dtype_));
  if (bytes() > 0 && data() && source.data()) {
    if (source.device_.host())
      read(source.data());
    else if (device_.host())
      source.write(data());
    else
      copy_between_devices(source);
  }
  bump_version("copy");
}

// Within one device in the order of its queue; between two by way of the host.
void Tensor::copy_between_devices(const Tensor& source) const {
  if (device_ == source.device_) {
    on_queued(device_, [&](const auto& dev) { kernels::copy_within(dev, data(), source.data(), bytes()); });
    return;
  }
  std::vector<std::byte> bytes_on_host(static_cast<size_t>(bytes()));
  source.write(bytes_on_host.data());
  read(bytes_on_host.data());
}

void Tensor::read(const void* host) const {
  if (bytes() == 0 || !data()) return;
  if (device_.host()) std::memcpy(data(), host, static_cast<size_t>(bytes()));
  on_queued(device_, [&](const auto& dev) { kernels::copy_in(dev, data(), host, bytes()); });
}

void Tensor::write(void* host) const {
  if (bytes() == 0 || !data()) return;
  if (device_.host()) std::memcpy(host, data(), static_cast<size_t>(bytes()));
  on_queued(device_, [&](const auto& dev) { kernels::copy_out(dev, host, data(), bytes()); });
}

void Tensor::fill_zero() const {
  if (bytes() == 0 || !data()) return;
  if (device_.host()) std::memset(data(), 0, static_cast<size_t>(bytes()));
  on_queued(device_, [&](const auto& dev) { kernels::fill_bytes(dev, data(), 0, bytes()); });
}

void Tensor::zero() const {
  fill_zero();
  bump_version("zero");
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  std::vector<T> out(static_cast<size_t>(count()));
  if (!data()) return out;  // dry: zeros
  if constexpr (std::is_same_v<T, float>) {
    if (dtype_ == DType::bf16) return widened<bf16>(*this);
    if (dtype_ == DType::f16) return widened<f16>(*this);
  }
  check(dtype_of<T>() == dtype_, "tensor", "values asked for as another type; expected ", name_of(dtype_));
  write(out.data());
  return out;
}
template std::vector<float> Tensor::to_vector() const;
template std::vector<bf16> Tensor::to_vector() const;
template std::vector<f16> Tensor::to_vector() const;
template std::vector<int32_t> Tensor::to_vector() const;
template std::vector<int64_t> Tensor::to_vector() const;
template std::vector<uint8_t> Tensor::to_vector() const;

float Tensor::item() const {
  check(count() == 1, "tensor", "item() needs one element; got ", shape_);
  return to_vector<float>()[0];
}

void Tensor::bump_version(const char* writer) const {
  if (!storage_) return;
  ++storage_->version;
  storage_->last_writer = writer;
}

}  // namespace accrete
