#include "apps/op_speed.h"

#include <algorithm>
#include <optional>

#include "apps/bench.h"
#include "engine/core/capture.h"
#include "kernels/dropout.h"

namespace accrete {
namespace {

using ops::OpInput;
constexpr int64_t kTableTokens = 1024;

// The shape with `factor` times the rows: (1024, ...), (4, 256, ...) and (12, 256, 256) of the table are 1024 tokens of
// a GPT, (2048, ...) are two such. Everything else (weights, positions, vectors) stays.
Shape grown(const Shape& s, int64_t factor) {
  if (s.rank() == 0) return s;
  std::vector<int64_t> sizes = s.vector();
  const bool rows = sizes[0] == kTableTokens || sizes[0] == 2 * kTableTokens;
  const bool sequences = s.rank() >= 2 && (sizes[0] == 4 || sizes[0] == 12);
  if (rows || sequences) sizes[0] *= factor;
  return Shape(sizes);
}

// Inputs with random numbers made on the device; ids where the table puts them.
ops::Tensors inputs_of(const ops::OpRow& row, DType dtype, Device device, int64_t factor) {
  ops::OpCase small = row.speed;
  for (size_t i = 0; i < small.inputs.size(); ++i) {
    OpInput& in = small.inputs[i];
    const bool table = row.name.starts_with("embedding") && i == 2;  // positions
    if (!table) in.shape = grown(in.shape, factor);
    if (in.kind != OpInput::Kind::ids) in.kind = OpInput::Kind::absent;
  }
  ops::Tensors inputs = ops::make_inputs(small, dtype, device, 1, false);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const OpInput& in = row.speed.inputs[i];
    if (in.kind == OpInput::Kind::ids || in.kind == OpInput::Kind::absent) continue;
    Tensor t = Tensor::empty(small.inputs[i].shape, in.kind == OpInput::Kind::activation ? dtype : DType::f32, device);
    on(t, [&]<class T>(const auto& dev) {
      kernels::random_uniform<T>(dev, t.ptr<T>(), t.count(), static_cast<float>(in.low), static_cast<float>(in.high),
                                 {1, i, 0}, 0);
    });
    inputs[i] = row.no_gradient.empty() && in.differentiable() ? require_grad(t) : t;
  }
  return inputs;
}

// Median seconds of `work`, recorded where that is possible.
double seconds_of(Device device, double seconds, const std::function<void()>& work) {
  std::optional<Capture> capture;
  try {
    capture.emplace(device, make_pool(device), work);
  } catch (const OutOfMemory&) {
    throw;
  } catch (const Error&) {  // the op looks at the host: timed launch by launch
    return repeat_on(device, seconds, work).median;
  }
  return repeat_on(device, seconds, [&] { capture->replay(); }).median;
}

}  // namespace

ops::OpSpeed measure_op_queued(const ops::OpRow& row, DType dtype, Device device, int64_t tokens, double seconds) {
  const int64_t factor = tokens / kTableTokens;
  ops::OpSettings settings = row.speed.settings;
  if (settings.shape.rank() > 0) settings.shape = grown(settings.shape, factor);
  if (row.name == "slice_rows") settings.begin *= factor, settings.end *= factor;
  ops::OpSpeed speed;
  {
    const ops::Tensors inputs = inputs_of(row, dtype, device, factor);
    const bool gradients = row.no_gradient.empty();
    Tensor dy;
    {  // once launch by launch: plans of products, gradients
      Tape tape;
      const ops::Tensors y = row.run(inputs, settings);
      if (gradients) {
        dy = like(y.back());
        on(dy, [&]<class T>(const auto& dev) {
          kernels::random_uniform<T>(dev, dy.ptr<T>(), dy.count(), -1.0f, 1.0f, {2, 0, 0}, 0);
        });
        backward(y.back(), dy);
      }
      speed.cost = tape.cost();
    }
    speed.forward_s = seconds_of(device, seconds, [&] {
      Tape tape;
      row.run(inputs, settings);
    });
    if (gradients) {
      const double both = seconds_of(device, seconds, [&] {
        Tape tape;
        backward(row.run(inputs, settings).back(), dy);
      });
      speed.backward_s = std::max(1e-9, both - speed.forward_s);
    }
  }
  release_cache(device);  // rows need very different memory
  return speed;
}

}  // namespace accrete
