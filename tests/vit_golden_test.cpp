// Vision transformers against timm and transformers: loss, logits and every gradient of random models
// (tests/golden/make_vit.py, computed there in double precision).
#include "tests/gpu_testing.h"
#include "tests/vit_testing.h"

using namespace accrete;

namespace {

const std::vector<std::string> kModels = {"vit_timm", "vit_distilled", "vit_deit3",    "vit_mean",
                                          "vit_hf",   "deit_hf",       "deit_plain_hf"};

struct Result {
  double loss = 0, logits = 0, worst_grad = 0;  // relative errors
  std::string worst_name;
};

// What a case does not have of its own, it shares with the first.
Batch batch_of(const GoldenFile& want, Device device, const std::string& prefix) {
  const auto tensor = [&](const std::string& name) {
    return want.tensor(want.file.find(prefix + name) ? prefix + name : name, device);
  };
  Batch b;
  b.inputs = tensor("images");
  b.extra["soft_targets"] = tensor("targets");
  return b;
}

// Gradients under the names and in the parts of the library, put together as our parameters have them: a part alone may
// be rounding noise (softmax does not see the keys' bias). Returns how many stored gradients there were.
size_t compare_gradients(const Vit& model, const GoldenFile& want, const std::string& prefix, bool hf, Result& r) {
  std::map<std::string, const SafetensorsEntry*> stored;
  for (const SafetensorsEntry& e : want.file.entries())
    if (e.name.starts_with(prefix + "grad.")) {
      const std::string name = e.name.substr(prefix.size() + 5);
      stored[hf ? vit_hf_name(name) : vit_timm_name(name)] = &e;
    }
  std::map<std::string, std::vector<float>> wanted;
  const auto names = hf ? vit_hf_names(model.settings()) : vit_timm_names(model.settings());
  for (const TensorName& n : names) {
    const auto it = stored.find(n.theirs);
    if (it == stored.end()) continue;
    CHECK(Shape(it->second->shape) == n.stored_shape());
    const auto part = values_of(*it->second);
    auto& whole = wanted[n.ours];
    whole.insert(whole.end(), part.begin(), part.end());
  }
  const ParamStore& store = static_cast<const Model&>(model).params();
  for (const auto& [name, grad] : wanted) {
    const double e = relative_error(store.grad(store.find(name)).to_vector<float>(), grad);
    if (e > r.worst_grad) r.worst_grad = e, r.worst_name = name;
  }
  if (prefix.empty()) CHECK(stored.size() == names.size());
  return stored.size();
}

// `prefix` names a case of expected.safetensors: "" or "large.".
Result compare(const std::string& name, DType compute, Device device, const Context& ctx,
               const std::string& prefix = "") {
  const GoldenFile want(name);
  const auto model = load_golden_vit(name, compute, device);
  const Batch batch = batch_of(want, device, prefix);
  Result r;
  {
    const NoGrad quiet;
    r.logits = relative_error(model->logits(batch, ctx).to_vector<float>(), want.floats(prefix + "logits"));
  }
  model->params().zero_grads();
  const Tape tape;
  const Tensor loss = model->loss(batch, ctx);
  r.loss = std::abs(loss.item() - want.floats(prefix + "loss")[0]) / want.floats(prefix + "loss")[0];
  backward(loss);
  CHECK(compare_gradients(*model, want, prefix, is_hf(name), r) > 0);
  MESSAGE(name << " " << prefix << name_of(compute) << " on " << device << ": loss " << r.loss << ", logits "
               << r.logits << ", gradients " << r.worst_grad << " (" << r.worst_name << ")");
  return r;
}

// f32 against double: rounding of 2^-24 per operation, a few dozen operations deep; the target of the project is 1e-4.
void check_f32(const std::string& name, Device device, const Context& ctx, const std::string& prefix = "") {
  const Result r = compare(name, DType::f32, device, ctx, prefix);
  CHECK(r.loss <= 1e-5);
  CHECK(r.logits <= 1e-4);
  CHECK(r.worst_grad <= 1e-4);
}

// A bf16 number has 8 significant bits, so every stored activation is off by up to 2^-9 = 0.2 %; in a few blocks that
// grows to about ten times as much in single logits and gradients.
void check_half(const std::string& name, DType half, Device device, const std::string& prefix = "") {
  const Result r = compare(name, half, device, {}, prefix);
  CHECK(r.loss <= 1e-2);
  CHECK(r.logits <= 4e-2);
  CHECK(r.worst_grad <= 8e-2);
}

Context with(bool plain, bool recompute) {
  Context c;
  c.plain = plain;
  c.recompute = recompute;
  return c;
}

// The losses of DeiT's and DeiT III's training, with the gradients that were kept.
void check_special_loss(const std::string& name, const std::string& prefix, Vit& model, Device device,
                        const Context& ctx) {
  const GoldenFile want(name);
  model.params().zero_grads();
  const Tape tape;
  const Tensor loss = model.loss(batch_of(want, device, prefix), ctx);
  CHECK(loss.item() == doctest::Approx(want.floats(prefix + "loss")[0]).epsilon(1e-5));
  backward(loss);
  Result r;
  CHECK(compare_gradients(model, want, prefix, false, r) > 0);
  CHECK_MESSAGE(r.worst_grad <= 1e-4, r.worst_name);
}

void check_distillation(Device device) {
  const std::shared_ptr<const ImageModel> teacher = load_golden_vit("vit_timm", DType::f32, device);
  Context ctx;
  ctx.training = true;
  const auto student = [&](DistillConfig config) {
    auto model = load_golden_vit("vit_distilled", DType::f32, device);
    model->set_teacher(teacher, config);
    return model;
  };
  DistillConfig hard, soft;
  check_special_loss("vit_distilled", "hard.", *student(hard), device, ctx);
  soft.type = "soft", soft.alpha = 0.3, soft.tau = 3;
  check_special_loss("vit_distilled", "soft.", *student(soft), device, ctx);
  // An evaluation knows nothing of the teacher: the mean of both heads against the targets.
  const GoldenFile want("vit_distilled");
  CHECK(student(hard)->loss(batch_of(want, device, ""), {}).item() ==
        doctest::Approx(want.floats("loss")[0]).epsilon(1e-5));
}

void check_bce(Device device) {
  auto config = load_golden_vit("vit_deit3")->settings();
  config.loss = "bce";
  Vit model(config, DType::f32, device);
  model.params().values().copy_from(load_golden_vit("vit_deit3", DType::f32, device)->params().values());
  check_special_loss("vit_deit3", "bce.", model, device, {});
}

}  // namespace

TEST_CASE("f32 agrees with timm and transformers: fused, plain, recomputed") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    check_f32(name, kCpu, with(false, false));
    check_f32(name, kCpu, with(true, false));
    check_f32(name, kCpu, with(false, true));
  }
}

TEST_CASE("pictures of another size: positions interpolated as transformers does") {
  for (const char* name : {"vit_hf", "deit_hf"}) check_f32(name, kCpu, {}, "large.");
}

TEST_CASE("distillation as DeiT's training code has it; binary cross-entropy as DeiT III's") {
  check_distillation(kCpu);
  check_bce(kCpu);
}

TEST_CASE("bf16 stays near f32") {
  for (const std::string& name : kModels) check_half(name, DType::bf16, kCpu);
  check_half("vit_hf", DType::bf16, kCpu, "large.");
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("the CUDA kernels, run by the emulator, agree too") {
  check_f32("vit_timm", kEmu, {});
  check_f32("vit_deit3", kEmu, {});
  check_f32("vit_mean", kEmu, with(true, false));
  check_f32("deit_hf", kEmu, {}, "large.");
  check_distillation(kEmu);
  check_bce(kEmu);
  check_half("vit_mean", DType::bf16, kEmu);
}
#endif

TEST_CASE("a GPU agrees: fused, plain, recomputed; bf16 and f16") {
  const auto gpu = test_gpu();
  if (!gpu) return;
  for (const std::string& name : kModels) {
    check_f32(name, *gpu, with(false, false));
    check_f32(name, *gpu, with(true, false));
    check_f32(name, *gpu, with(false, true));
    for (const DType half : {DType::bf16, DType::f16}) check_half(name, half, *gpu);
  }
  for (const char* name : {"vit_hf", "deit_hf"}) check_f32(name, *gpu, {}, "large.");
  check_distillation(*gpu);
  check_bce(*gpu);
}
