// VOLO against timm's VOLO: class and patch logits, losses, every gradient and the running statistics of two random
// models (tests/golden/make_volo.py, computed there in double precision).
#include "models/volo_timm.h"
#include "tests/gpu_testing.h"
#include "tests/model_testing.h"

using namespace accrete;

namespace {

Context with(bool training, bool plain = false, bool recompute = false) {
  Context c;
  c.training = training;
  c.plain = plain;
  c.recompute = recompute;
  return c;
}

// The tensors of a golden folder as batches.
struct Pictures : GoldenFile {
  Device device;
  Pictures(const std::string& name, Device d) : GoldenFile(name), device(d) {}

  Tensor tensor(const std::string& name) const { return GoldenFile::tensor(name, device); }
  Batch batch(const std::string& images) const {
    Batch b;
    b.inputs = tensor(images);
    b.samples = b.tokens = b.inputs.size(0);
    return b;
  }
  // Of the loss of that name in make_volo.py.
  Batch training(const std::string& loss) const {
    Batch b = batch("images");
    b.extra["soft_targets"] = tensor("soft_targets");
    if (loss == "token") b.extra["token_targets"] = tensor("token_targets");
    if (loss == "mixed") {
      b.extra["token_targets"] = tensor("dense_targets");
      b.extra["mix_box"] = Tensor::from(ints("mix_box"), Shape{4}, device);
    }
    return b;
  }
};

// Relative errors, the largest of their kind; gradients of the stem apart.
struct Result {
  double logits = 0, loss = 0, stem = 0, gradients = 0, running = 0;
};

Result compare(const std::string& name, DType compute, Device device, bool plain, bool again) {
  const Pictures want(name, device);
  // A forward pass in training moves the running statistics: every comparison begins with the file.
  const auto fresh = [&] { return read_volo_timm(golden(name), compute, device); };
  Result r;
  const auto logits_near = [&](const Tensor& got, const std::string& expected) {
    r.logits = std::max(r.logits, relative_error(got.to_vector<float>(), want.floats(expected)));
  };
  {
    const NoGrad quiet;
    const auto model = fresh();
    logits_near(model->logits(want.batch("images"), with(false, plain)), "logits");
    logits_near(model->logits(want.batch("other_images"), with(false, plain)), "other_logits");
    const Volo::Heads h = model->heads(want.batch("images"), with(true, plain));
    logits_near(h.cls, "cls");
    logits_near(h.patches, "patches");
    for (const ParamEntry& e : model->params().entries()) {
      if (!e.buffer) continue;
      const auto got = model->params().value(model->params().find(e.name)).to_vector<float>();
      r.running = std::max(r.running, relative_error(got, want.floats("running." + e.name)));
    }
    const auto mixed =
        fresh()->heads(want.batch("images"), with(true, plain), Tensor::from(want.ints("mix_box"), Shape{4}, device));
    logits_near(mixed.cls, "mixed.cls");
    logits_near(mixed.patches, "mixed.patches");
  }
  const std::string graded = name == "volo_a" ? "mixed" : "soft";
  for (const std::string which : {"soft", "token", "mixed"}) {
    const auto model = fresh();
    model->params().zero_grads();
    const Tape tape;
    const Tensor loss = model->loss(want.training(which), with(true, plain, again));
    const double expected = want.floats("loss." + which)[0];
    r.loss = std::max(r.loss, std::abs(loss.item() - expected) / expected);
    if (which != graded) continue;
    backward(loss);
    for (const TensorName& n : volo_timm_names(*model)) {
      const int index = model->params().find(n.ours);
      if (model->params().entries()[static_cast<size_t>(index)].buffer) continue;
      const SafetensorsEntry* entry = want.file.find("grad." + n.theirs);
      REQUIRE(entry != nullptr);
      const double e = relative_error(model->params().grad(index).to_vector<float>(), values_of(*entry, n));
      double& worst = n.ours.starts_with("patch_embed.conv.") ? r.stem : r.gradients;
      worst = std::max(worst, e);
    }
  }
  MESSAGE(name << " " << name_of(compute) << " on " << device << ": logits " << r.logits << ", loss " << r.loss
               << ", gradients " << r.gradients << ", of the stem " << r.stem << ", running statistics " << r.running);
  return r;
}

// f32 against double: rounding of 2^-24 per operation, a few dozen operations deep; the target of the project is 1e-4.
void check_f32(const std::string& name, Device device, bool plain, bool again) {
  const Result r = compare(name, DType::f32, device, plain, again);
  CHECK(r.logits <= 1e-4);
  CHECK(r.loss <= 1e-5);
  CHECK(r.gradients <= 1e-4);
  CHECK(r.stem <= 1e-4);
  CHECK(r.running <= 1e-5);
}

// A bf16 number has 8 significant bits: every stored activation is off by up to 0.2 %, in a few blocks by ten times as
// much. Behind the stem's batch norms gradients are what is left when mean and trend are subtracted, small differences
// of rounded numbers. Measured: see the messages (-s).
void check_half(const std::string& name, DType half, Device device) {
  const Result r = compare(name, half, device, false, false);
  CHECK(r.logits <= 3e-2);
  CHECK(r.loss <= 5e-3);
  CHECK(r.gradients <= 6e-2);
  CHECK(r.stem <= 3e-1);
}

}  // namespace

TEST_CASE("f32 agrees with timm: fused, plain, recomputed") {
  for (const char* name : {"volo_a", "volo_b"}) {
    check_f32(name, kCpu, false, false);
    check_f32(name, kCpu, true, false);
    check_f32(name, kCpu, false, true);
  }
}

TEST_CASE("bf16 stays near timm's f32") {
  for (const char* name : {"volo_a", "volo_b"}) check_half(name, DType::bf16, kCpu);
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("the CUDA kernels, run by the emulator, agree with timm") {
  check_f32("volo_a", kEmu, false, false);
  check_f32("volo_b", kEmu, false, false);
  check_f32("volo_b", kEmu, true, true);
  check_half("volo_b", DType::bf16, kEmu);
}
#endif

TEST_CASE("a GPU agrees with timm: fused, plain, recomputed; bf16 and f16") {
  const auto gpu = test_gpu();
  if (!gpu) return;
  for (const char* name : {"volo_a", "volo_b"}) {
    check_f32(name, *gpu, false, false);
    check_f32(name, *gpu, true, false);
    check_f32(name, *gpu, false, true);
    for (const DType half : {DType::bf16, DType::f16}) check_half(name, half, *gpu);
  }
}

TEST_CASE("recompute gives the same bits, with drop-path and MixToken too") {
  VoloConfig config = read_volo_timm_config(golden("volo_a") / "config.json");
  config.drop_path = 0.5;
  std::vector<Device> devices = {kCpu};
  for (const Device d : queued_devices()) devices.push_back(d);
  for (const Device device : devices) {
    CAPTURE(device);
    std::vector<float> grads[2], values[2];
    for (const bool again : {false, true}) {
      Volo model(config, DType::f32, device);
      model.params().initialise(4);
      model.params().zero_grads();
      Context ctx = with(true, false, again);
      ctx.seed = 5;
      ctx.step = 3;
      const Tape tape;
      backward(model.loss(Pictures("volo_a", device).training("mixed"), ctx));
      grads[again] = model.params().grads().to_vector<float>();
      values[again] = all_values(model);  // the running statistics have moved once
    }
    CHECK(same_bits(grads[0], grads[1]));
    CHECK(same_bits(values[0], values[1]));
  }
}

TEST_CASE("evaluate sums the loss and the hits of the evaluation's logits") {
  const Pictures want("volo_a", kCpu);
  const auto model = read_volo_timm(golden("volo_a"), DType::f32, kCpu);
  const auto logits = want.floats("logits");
  Batch batch = want.batch("images");
  const std::vector<int32_t> targets = {0, 6, -1, 3};
  batch.targets = Tensor::from(targets, Shape{4});
  const EvalSums sums = model->evaluate(batch, {});
  double loss = 0, top1 = 0;
  for (size_t b = 0; b < targets.size(); ++b) {
    if (targets[b] < 0) continue;
    const float* z = logits.data() + b * 7;
    double total = 0;
    for (size_t c = 0; c < 7; ++c) total += std::exp(static_cast<double>(z[c]));
    loss += std::log(total) - z[targets[b]];
    top1 += std::max_element(z, z + 7) - z == targets[b];
  }
  CHECK(sums.count == 3);
  CHECK(sums.top1 == top1);
  CHECK(sums.loss == doctest::Approx(loss).epsilon(1e-5));
}
