// Resampling against PyTorch, random numbers of recorded launches, and refusals of the ops for images and tokens. What
// their rows of the op table show is not repeated here.
#include <doctest/doctest.h>

#include <cmath>

#include "engine/core/capture.h"
#include "engine/core/random.h"
#include "engine/ops/images.h"
#include "engine/ops/update.h"
#include "tests/gpu_testing.h"
#include "tests/op_testing.h"

using namespace accrete;

namespace {

Tensor ramp(Shape shape) {
  std::vector<float> v(static_cast<size_t>(shape.count()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  return Tensor::from(v, shape);
}

// A 3 x 4 image with uneven numbers.
Tensor uneven(Shape shape) {
  std::vector<float> v(12);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i * 7 % 12 * (i * 7 % 12)) * 0.25f - 3.0f;
  return Tensor::from(v, shape);
}

}  // namespace

TEST_CASE("resampled rows of numbers are those of other libraries") {  // PyTorch, f64, printed to 8 digits
  const auto row = [](std::vector<float> x, int64_t to, float offset) {
    const auto n = static_cast<int64_t>(x.size());
    return ops::resample_grid(Tensor::from(x, Shape{n, 1}), 0, {1, n}, {1, to}, offset);
  };
  expect_values(row({0, 1, 2, 3}, 6, 0), {-0.08680556, 0.40625, 1.21296296, 1.78703704, 2.59375, 3.08680556}, 1e-6);
  expect_values(row({1, 0, 0, 0}, 6, 0), {1.08680556, 0.5, -0.08680556, -0.01736111, 0, 0}, 1e-6);
  expect_values(row({0, 1, 4, 9}, 2, 0), {0.21875, 6.78125}, 1e-6);
  expect_values(row({0, 1, 4, 9}, 2, 0.1f), {0.194326, 6.035805}, 2e-6);  // six digits are known
  expect_values(row({0, 1, 4, 9}, 6, 0), {-0.086806, 0.21875, 1.430556, 3.152778, 6.78125, 9.434028}, 2e-6);
  std::vector<float> squares;
  for (int i = 0; i < 14; ++i) squares.push_back(static_cast<float>(i * i));
  expect_values(row(squares, 8, 0), {0.1626, 4.6660, 14.6738, 31.2012, 54.7129, 83.9902, 117.3496, 161.5073}, 1e-4);
  expect_values(row(squares, 8, 0.1f), {0.1587, 4.5081, 14.1962, 30.5374, 53.5345, 81.1656, 114.1730, 157.7622}, 1e-4);
}

// torch.nn.functional.interpolate of torch 2, align_corners=False, f64; the gradient of the result counts 0, 1, 2, ...
TEST_CASE("resampled grids and images, and their gradients, are PyTorch's") {
  Tape tape;
  const Tensor table = require_grad(uneven(Shape{12, 1}));
  const Tensor grid = ops::resample_grid(table, 0, {3, 4}, {5, 2});  // mode="bicubic", size=(5, 2)
  expect_values(
      grid,
      {3.0336875, 7.2363125, 9.6844375, 2.7895625, 16.1171875, -0.3671875, 9.5561875, 8.3898125, 2.8281875, 16.2098125},
      5e-6);
  backward(grid, ramp(grid.shape()));
  expect_values(grad_of(table),
                {0.3960000, 0.2426250, 1.3673750, 1.2140000, 3.4560000, 3.2940000, 4.4820000, 4.3200000, 6.1480000,
                 5.9946250, 7.1193750, 6.9660000},
                5e-6);
  // scale_factor=(5.1 / 3, 2.1 / 4), recompute_scale_factor=False
  expect_values(ops::resample_grid(table, 0, {3, 4}, {5, 2}, 0.1f),
                {2.3349777, 3.5718093, 8.1489630, 1.1557330, 14.4531684, 0.3634037, 10.0007401, 10.3356808, 4.1817795,
                 19.5306412},
                5e-6);

  const Tensor image = require_grad(uneven(Shape{1, 1, 3, 4}));
  const Tensor resized = ops::resize_images(image, 2, 7);  // mode="bilinear", size=(2, 7)
  expect_values(resized,
                {-2.0000000, 3.6250000, 12.6250000, 6.8750000, 0.8750000, 7.8750000, 12.2500000, 10.0000000, 8.6607143,
                 6.5178571, 12.1250000, 16.8392857, 7.5535714, 1.7500000},
                2e-6);
  backward(resized, ramp(resized.shape()));
  expect_values(grad_of(image),
                {0.5892857, 2.7857143, 5.2500000, 7.1250000, 3.3928571, 4.9821429, 6.6250000, 7.7500000, 9.5892857,
                 12.1607143, 14.6250000, 16.1250000},
                2e-6);
}

TEST_CASE("the gradient of a resampled table reaches the table in f32, through a sequence in half precision") {
  for (const DType half : {DType::bf16, DType::f16}) {
    Tape tape;
    const Tensor table = require_grad(ops::cast(ramp(Shape{5, 3}), half).detach());
    const Tensor x = Tensor::zeros(Shape{700, 1, 3}, half), cls = Tensor::zeros(Shape{1, 3}, half);
    const Tensor y = ops::sequence(x, cls, Tensor(), ops::resample_grid(table, 1, {2, 2}, {1, 1}));
    CHECK(y.dtype() == half);
    const Tensor ones = ops::affine(Tensor::zeros(y.shape(), half), 1.0f, 1.0f);
    backward(y, ones);
    // 700 samples: more than bf16 could count one by one. The cell in the middle takes a quarter of each.
    CHECK(grad_of(table).dtype() == DType::f32);
    std::vector<double> want(15, 175.0);
    want[0] = want[1] = want[2] = 700.0;
    expect_values(grad_of(table), want, 1e-3);
  }
}

TEST_CASE("recorded launches drop other samples in every step") {
  for (const Device device : queued_devices()) {
    const Tensor live = Tensor::zeros(Shape{1}, DType::i64, device);
    const Tensor x = ops::affine(Tensor::zeros(Shape{64, 3}, DType::f32, device), 1.0f, 1.0f);
    const Tensor gamma = ops::affine(Tensor::zeros(Shape{3}, DType::f32, device), 1.0f, 2.0f);
    RandomKey key = random_key(7, "path");
    key.live_step = reinterpret_cast<const uint64_t*>(live.ptr<int64_t>());
    Tensor dropped, joined;
    const Capture capture(device, make_pool(device), [&] {
      dropped = ops::drop_path(x, 0.5f, key, 3);
      joined = ops::residual_branch(x, x, {gamma, 0.5f, key, 3});
    });
    std::vector<float> first;
    for (uint64_t step = 0; step < 3; ++step) {
      update::set_live_step(live, step);
      capture.replay();
      const RandomKey fixed = random_key(7, "path", step);
      const auto want = ops::drop_path(x, 0.5f, fixed, 3).to_vector<float>();
      CHECK(dropped.to_vector<float>() == want);
      CHECK(joined.to_vector<float>() == ops::residual_branch(x, x, {gamma, 0.5f, fixed, 3}).to_vector<float>());
      if (step == 0) first = want;
      if (step == 1) CHECK(first != want);
    }
  }
}

TEST_CASE("wrong images, tokens and soft targets are refused") {
  const Tensor tokens = Tensor::zeros(Shape{2, 3, 4}), cls = Tensor::zeros(Shape{1, 4}), none;
  const Tensor images = Tensor::zeros(Shape{2, 3, 6, 9}), logits = Tensor::zeros(Shape{3, 5});
  CHECK(error_of([&] {
          ops::sequence(tokens, Tensor::zeros(Shape{1, 5}), none, none);
        }) == "[sequence] the class token does not fit the tokens; expected (.., 4) f32; got (1, 5) f32");
  CHECK(error_of([&] {
          ops::sequence(tokens, cls, none, Tensor::zeros(Shape{5, 4}));
        }).find("has 5 rows; expected 4 (special tokens in front) or 3 (without them)") != std::string::npos);
  CHECK(error_of([&] { ops::slice_tokens(tokens, 2, 4); }) == "[slice_tokens] tokens [2, 4) do not fit (2, 3, 4)");
  CHECK(error_of([&] {
          ops::concat_tokens(tokens, Tensor::zeros(Shape{1, 3, 4}));
        }).find("differ") != std::string::npos);
  CHECK(error_of([&] { ops::mean_tokens(tokens, 3); }).find("of no tokens") != std::string::npos);
  CHECK(error_of([&] { ops::drop_path(tokens, 1.0f, {}, 0); }).find("expected 0 <= p < 1") != std::string::npos);
  CHECK(error_of([&] {
          ops::residual_branch(tokens, tokens, {.scale = Tensor::zeros(Shape{3})});
        }).find("gamma does not fit; expected (4) f32") != std::string::npos);
  CHECK(error_of([&] {
          ops::soft_cross_entropy(logits, Tensor::zeros(Shape{3, 4}));
        }) == "[soft_cross_entropy] targets do not fit the logits; expected (3, 5) f32 on cpu; got (3, 4) f32 on cpu");
  CHECK(error_of([&] {
          ops::binary_cross_entropy(logits, require_grad(Tensor::zeros(Shape{3, 5})));
        }).find("detach them") != std::string::npos);
  CHECK(error_of([&] { ops::argmax(Tensor::zeros(Shape{3, 0})); }).find("of no elements") != std::string::npos);
  CHECK(error_of([&] { ops::patchify(images, 2); }) == "[patchify] patches of 2 x 2 do not fill images of 6 x 9");
  CHECK(error_of([&] { ops::resize_images(images, 0, 3); }).find("expected sides of 1 to 16384") != std::string::npos);
  CHECK(error_of([&] {
          ops::resample_grid(cls, 1, {2, 2}, {3, 3});
        }).find("expected (1 + 2 * 2, C); got (1, 4)") != std::string::npos);
}
