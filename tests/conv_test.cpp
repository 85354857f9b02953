// Convolution and batch normalisation against PyTorch's numbers, and what the op table cannot see: chunks of a large
// batch, workspace, running statistics, recorded launches. Values and gradients over many shapes are the op table's
// business (op_table_test).
//
// The constants come from torch.nn.functional.conv2d and torch.nn.BatchNorm2d in double precision (torch 2, CPU) on the
// inputs made by `waves`, in (B, C, H, W) on their side.
#include <doctest/doctest.h>

#include <cmath>

#include "engine/core/capture.h"
#include "engine/nn/params.h"
#include "engine/ops/images.h"
#include "tests/gpu_testing.h"
#include "tests/op_testing.h"

using namespace accrete;

namespace {

// One number of many: their sum weighted with waves.
double fingerprint(const Tensor& t) {
  const std::vector<float> v = t.to_vector<float>();
  double sum = 0;
  for (size_t i = 0; i < v.size(); ++i) sum += static_cast<double>(v[i]) * std::sin(0.9 * static_cast<double>(i) + 0.4);
  return sum;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return largest;
}

struct NormInputs {
  Tensor x, gamma, beta, mean, var;
  explicit NormInputs(Device device) {
    x = waves(Shape{1, 2, 3, 2}, 0.7, 0.3, device);
    gamma = Tensor::from<float>({1.5f, -0.5f}, Shape{2}, device);
    beta = Tensor::from<float>({0.25f, 1.0f}, Shape{2}, device);
    mean = Tensor::zeros(Shape{2}, DType::f32, device);
    var = Tensor::from<float>({1.0f, 1.0f}, Shape{2}, device);
  }
};

}  // namespace

TEST_CASE("convolution and its gradients are PyTorch's") {
  struct Case {
    int64_t stride;
    Shape y;
    std::vector<double> first, fingerprints;  // first numbers of y, dx, dw; fingerprints of the same
  };
  const Case cases[] = {
      {1,
       Shape{1, 5, 6, 3},
       {1.2760749229, 3.2651208412, 5.2290794249, 4.7070242755, 3.8431920285, -1.3776549384},
       {1.1242600292, 1.2066842909, -2.1727178657}},
      {2,
       Shape{1, 3, 3, 3},
       {1.2760749229, 3.2651208412, 1.3864989304, 1.4733595278, -0.2082326327, 0.6376845889},
       {-6.3831987407, 4.9904098317, 1.7541554271}},
  };
  for (const Device device : all_devices())
    for (const Case& c : cases) {
      Tape tape;
      const Tensor x = require_grad(waves(Shape{1, 5, 6, 2}, 0.7, 0.3, device));
      const Tensor w = require_grad(waves(Shape{3, 18}, 0.3, 0.1, device));
      const Tensor bias = Tensor::from<float>({0.1f, -0.2f, 0.3f}, Shape{3}, device);
      const Tensor y = ops::conv2d(x, w, bias, {.kernel = 3, .stride = c.stride, .pad = 1});
      REQUIRE(y.shape() == c.y);
      backward(y, waves(c.y, 0.5, 0.2, device));
      const Tensor results[] = {y, grad_of(x), grad_of(w)};
      for (size_t k = 0; k < 3; ++k) {  // magnitudes of up to 10
        expect_values(results[k].view(Shape{results[k].count()}).flat(0, 2), {c.first[2 * k], c.first[2 * k + 1]},
                      5e-6);
        CHECK(std::abs(fingerprint(results[k]) - c.fingerprints[k]) < 5e-5);
      }
    }
}

// 70 images make 20 MB of unfolded windows: two chunks in forward and in both gradients.
TEST_CASE("a batch that needs several chunks gives what its images give one by one, in bounded workspace") {
  for (const Device device : all_devices())
    for (const int64_t stride : {1, 2}) {
      const int64_t images = device == kCpu ? 70 * stride * stride : 70 * stride;
      const ops::ConvOptions options{.kernel = 3, .stride = stride, .pad = 1};
      const Tensor x = waves(Shape{images, 32, 32, 8}, 0.37, 0.1, device), w = waves(Shape{4, 72}, 0.3, 0.2, device);
      const auto run = [&](const Tensor& part, Tensor& dx, Tensor& dw, Tensor& db) {
        Tape tape;
        const Tensor input = require_grad(part.detach()), weight = require_grad(w.detach());
        const Tensor bias = require_grad(Tensor::zeros(Shape{4}, DType::f32, device));
        const Tensor y = ops::conv2d(input, weight, bias, options);
        backward(y, ops::scale(y.detach(), 0.01f));
        dx = grad_of(input), dw = grad_of(weight), db = grad_of(bias);
        return y.detach();
      };
      Tensor dx, dw, db;
      reset_peak(device);
      const Tensor y = run(x, dx, dw, db);
      CHECK(memory_use(device).segment[static_cast<int>(Segment::workspace)].peak <= int64_t{17} << 20);
      std::vector<double> sum_w(288, 0.0), sum_b(4, 0.0);
      for (int64_t b = 0; b < images; ++b) {
        Tensor dx1, dw1, db1;
        const Tensor y1 = run(x.rows(b, b + 1), dx1, dw1, db1);
        REQUIRE(largest_difference(y1.to_vector<float>(), y.rows(b, b + 1).to_vector<float>()) < 1e-5);
        REQUIRE(largest_difference(dx1.to_vector<float>(), dx.rows(b, b + 1).to_vector<float>()) < 1e-6);
        const std::vector<float> w1 = dw1.to_vector<float>(), b1 = db1.to_vector<float>();
        for (size_t i = 0; i < sum_w.size(); ++i) sum_w[i] += static_cast<double>(w1[i]);
        for (size_t i = 0; i < sum_b.size(); ++i) sum_b[i] += static_cast<double>(b1[i]);
      }
      expect_values(dw, sum_w, 2e-2);
      expect_values(db, sum_b, 2e-2);
    }
}

TEST_CASE("an image that wants no gradient gets none, and its part of the cost is not counted") {
  const ops::ConvOptions options{.kernel = 3, .pad = 1};
  const Tensor x = waves(Shape{2, 6, 6, 3}, 0.7, 0.3, kCpu), w = require_grad(waves(Shape{4, 27}, 0.3, 0.1, kCpu));
  Tape tape;
  const Tensor y = ops::conv2d(x, w, Tensor(), options);
  CHECK(tape.cost().flops == 2.0 * 2 * 36 * 4 * 27);
  CHECK(tape.cost().backward_flops == 0);
  backward(ops::sum(y));
  CHECK(tape.cost().backward_flops >= 2.0 * 2 * 36 * 4 * 27);
  CHECK(tape.cost().backward_flops < 2.5 * 2 * 36 * 4 * 27);
  CHECK_FALSE(grad_of(x).defined());
  CHECK(grad_of(w).count() == 4 * 27);
}

TEST_CASE("batch normalisation, its gradients and its running statistics are PyTorch's") {
  for (const Device device : all_devices()) {
    const NormInputs in(device);
    const Tensor x = require_grad(in.x), gamma = require_grad(in.gamma), beta = require_grad(in.beta);
    {
      Tape tape;
      const Tensor y = ops::batch_norm(x, gamma, beta, in.mean, in.var, {.training = true});
      expect_values(y,
                    {0.59738949, 0.56824416, 2.13231008, 0.68365314, 0.03748134, 1.57860153, -2.20954336, 1.76741619,
                     -0.87855536, 0.93665237, 1.82091780, 0.46543261},
                    1e-6);
      std::vector<float> dy(12);
      for (size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(std::cos(0.5 * static_cast<double>(i)));
      backward(y, Tensor::from(dy, y.shape(), device));
    }
    expect_values(grad_of(x),
                  {2.00382788, -0.253866506, -0.281021865, 0.202807831, -0.654883696, 0.000554803, -0.059094526,
                   -0.0759272282, -0.419847893, 0.170001749, -0.588979901, -0.0435706492},
                  2e-6);
    expect_values(grad_of(gamma), {3.38070492, 3.89790435}, 2e-6);
    expect_values(grad_of(beta), {-0.23581846, -0.29140656}, 2e-6);
    // Momentum 0.1 and the unbiased variance of six rows; then once more with another batch.
    expect_values(in.mean, {0.01379659, 0.02204202}, 1e-7);
    expect_values(in.var, {0.95553688, 0.96207127}, 3e-7);
    ops::batch_norm(ops::affine(in.x.detach(), 2.0f, 1.0f), in.gamma, in.beta, in.mean, in.var, {.training = true});
    expect_values(in.mean, {0.14001012, 0.16392186}, 2e-7);
    expect_values(in.var, {1.08213071, 1.11414922}, 3e-7);
    const std::vector<float> mean = in.mean.to_vector<float>(), var = in.var.to_vector<float>();
    expect_values(ops::batch_norm(in.x, in.gamma, in.beta, in.mean, in.var, {}),
                  {0.47423736, 0.67905016, 1.47804119, 0.75768679, 0.10806991, 1.36748094, -1.36143413, 1.49613425,
                   -0.49099766, 0.93007377, 1.27439759, 0.60899709},
                  1e-6);
    CHECK(in.mean.to_vector<float>() == mean);  // evaluation reads them only
    CHECK(in.var.to_vector<float>() == var);
  }
}

TEST_CASE("running statistics move at every replay of recorded launches") {
  for (const Device device : queued_devices()) {
    const NormInputs in(device), other(device);
    Tensor y;
    const Capture capture(device, make_pool(device),
                          [&] { y = ops::batch_norm(in.x, in.gamma, in.beta, in.mean, in.var, {.training = true}); });
    for (int i = 0; i < 3; ++i) {
      capture.replay();
      const Tensor want = ops::batch_norm(other.x, other.gamma, other.beta, other.mean, other.var, {.training = true});
      CHECK(y.to_vector<float>() == want.to_vector<float>());
      CHECK(in.mean.to_vector<float>() == other.mean.to_vector<float>());
      CHECK(in.var.to_vector<float>() == other.var.to_vector<float>());
    }
    CHECK(in.mean.to_vector<float>()[0] == doctest::Approx(0.1379659 * (1 - 0.729)).epsilon(1e-5));
  }
}

// A column far from zero: the variance is that of small differences.
TEST_CASE("the variance is taken about the mean") {
  for (const Device device : all_devices()) {
    const int64_t N = 3000, C = 4;
    std::vector<float> v(static_cast<size_t>(N * C));
    for (size_t i = 0; i < v.size(); ++i) v[i] = 1000.0f + (i / 4 % 2 == 0 ? 0.5f : -0.5f);
    const Tensor ones = Tensor::from<float>({1, 1, 1, 1}, Shape{C}, device);
    const Tensor zeros = Tensor::zeros(Shape{C}, DType::f32, device), mean = zeros.clone(), var = zeros.clone();
    const Tensor x = Tensor::from(v, Shape{N, C}, device);
    const Tensor y = ops::batch_norm(x, ones, zeros, mean, var, {.training = true, .momentum = 1.0f, .eps = 0.0f});
    std::vector<double> want;
    for (int64_t i = 0; i < N * C; ++i) want.push_back(i / 4 % 2 == 0 ? 1.0 : -1.0);
    expect_values(y, want, 1e-3);  // the mean, 1000, has steps of 6e-5
    expect_values(var, std::vector<double>(4, 0.25 * 3000 / 2999), 1e-5);
  }
}

// Weights and running statistics lie in one flat buffer: that the statistics moved must not look like changed weights.
TEST_CASE("backward works when running statistics stand among the weights") {
  ParamStore store(DType::f32, kCpu);
  const Scope scope(store);
  const Param w = scope.param("w", Shape{4, 3}, {kNone, kNone}, Init::normal(0.5f), true);
  const Param gamma = scope.param("gamma", Shape{4}, {kNone}, Init::ones(), false);
  const Param beta = scope.param("beta", Shape{4}, {kNone}, Init::zeros(), false);
  const Param mean = scope.buffer("running_mean", Shape{4}, {kNone}, Init::zeros());
  const Param var = scope.buffer("running_var", Shape{4}, {kNone}, Init::ones());
  store.allocate();
  store.initialise(1);
  store.zero_grads();
  Tape tape;
  const Tensor x = require_grad(waves(Shape{6, 3}, 0.7, 0.3, kCpu));
  Tensor y = ops::linear(x, w(), Tensor());
  for (int i = 0; i < 2; ++i)  // one norm used twice
    y = ops::batch_norm(y, gamma(), beta(), mean(), var(), {.training = true});
  backward(ops::sum(ops::unary(ops::Unary::square, y)));
  CHECK(grad_of(x).defined());
  CHECK(store.value(mean.index()).to_vector<float>()[0] != 0.0f);
  for (const float g : store.grads().to_vector<float>()) CHECK(std::isfinite(g));
}

TEST_CASE("results do not depend on the number of threads") {
  const auto run = [](int threads) {
    set_threads(threads);
    Tape tape;
    const Tensor x = require_grad(waves(Shape{5, 20, 20, 24}, 0.37, 0.1, kCpu));
    const Tensor logits = require_grad(waves(Shape{5, 10, 10, 3 * 81}, 0.7, 0.3, kCpu));
    const Tensor ones = require_grad(Tensor::from(std::vector<float>(24, 1.0f), Shape{24}));
    const Tensor zeros = Tensor::zeros(Shape{24}), mean = zeros.clone(), var = zeros.clone();
    const Tensor normed = ops::batch_norm(x, ones, zeros, mean, var, {.training = true});
    const Tensor y = ops::average_pool2(ops::outlook_attention(normed, logits, 3, 0.35f));
    backward(y, y.detach());
    std::vector<std::vector<float>> out;
    for (const Tensor& t : {y, grad_of(x), grad_of(logits), grad_of(ones), mean, var})
      out.push_back(t.to_vector<float>());
    return out;
  };
  const auto one = run(1);
  CHECK(run(2) == one);
  CHECK(run(5) == one);
  set_threads(1);
}

TEST_CASE("wrong inputs of convolution and batch normalisation are refused with what was expected") {
  const Tensor x = Tensor::zeros(Shape{1, 4, 4, 3}), one = Tensor::zeros(Shape{3});
  CHECK(error_of([&] {
          ops::conv2d(x, Tensor::zeros(Shape{5, 9}), Tensor(), {.kernel = 3});
        }).find("expected (O, 27)") != std::string::npos);
  CHECK(error_of([&] {
          ops::conv2d(x, Tensor::zeros(Shape{5, 75}), Tensor(), {.kernel = 5});
        }).find("window of 5 cells does not fit") != std::string::npos);
  CHECK(error_of([&] {
          ops::conv2d(x, Tensor::zeros(Shape{5, 3}), Tensor(), {.pad = 1});
        }).find("0 <= pad < kernel") != std::string::npos);
  CHECK(error_of([&] {
          ops::conv2d(x, Tensor::zeros(Shape{5, 3}), one, {});
        }).find("expected (5) f32") != std::string::npos);
  CHECK(error_of([&] {
          ops::batch_norm(x, one, one, one, Tensor::zeros(Shape{2}), {});
        }).find("running_var does not") != std::string::npos);
  CHECK(error_of([&] {
          ops::batch_norm(Tensor::zeros(Shape{1, 3}), one, one, one, one, {.training = true});
        }).find("at least two rows") != std::string::npos);
}
