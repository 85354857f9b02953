// GPT against transformers' GPT2LMHeadModel: loss, logits and every gradient of three random models
// (tests/golden/make_gpt2.py, computed there in double precision).
#include "tests/gpt_testing.h"
#include "tests/gpu_testing.h"

using namespace accrete;

namespace {

struct Result {
  double loss = 0, logits = 0, worst_grad = 0;  // relative errors
  std::string worst_name;
};

Result compare(const std::string& name, DType compute, Device device, const Context& ctx) {
  const Golden want(name);
  const auto model = read_gpt_hf(golden(name), compute, device);
  const Batch batch = want.batch(device);
  Result r;
  {
    const NoGrad quiet;
    r.logits = relative_error(model->logits(batch.inputs, ctx).to_vector<float>(), want.floats("logits"));
  }
  model->params().zero_grads();
  const Tape tape;
  const Tensor loss = model->loss(batch, ctx);
  r.loss = std::abs(loss.item() - want.floats("loss")[0]) / want.floats("loss")[0];
  backward(loss);
  const auto names = gpt_hf_names(model->settings());
  CHECK(names.size() == model->params().entries().size());
  for (const TensorName& n : names) {
    const std::string theirs = n.theirs == "lm_head.weight" ? n.theirs : "transformer." + n.theirs;
    const auto grad = model->params().grad(model->params().find(n.ours)).to_vector<float>();
    const double e = relative_error(grad, want.floats("grad." + theirs, n.transposed));
    if (e > r.worst_grad) r.worst_grad = e, r.worst_name = n.ours;
  }
  MESSAGE(name << " " << name_of(compute) << " on " << device << ": loss " << r.loss << ", logits " << r.logits
               << ", gradients " << r.worst_grad << " (" << r.worst_name << ")");
  return r;
}

// f32 against double: rounding of 2^-24 per operation, a few dozen operations deep; the target of the project is 1e-4.
void check_f32(const std::string& name, Device device, const Context& ctx) {
  const Result r = compare(name, DType::f32, device, ctx);
  CHECK(r.loss <= 1e-5);
  CHECK(r.logits <= 1e-4);
  CHECK(r.worst_grad <= 1e-4);
}

Context with(bool plain, bool recompute) {
  Context c;
  c.plain = plain;
  c.recompute = recompute;
  return c;
}

}  // namespace

TEST_CASE("f32 agrees with transformers: fused, plain, recomputed") {
  for (const char* name : {"gpt2_a", "gpt2_b", "gpt2_c"}) {
    check_f32(name, kCpu, with(false, false));
    check_f32(name, kCpu, with(true, false));
    check_f32(name, kCpu, with(false, true));
  }
}

TEST_CASE("bf16 stays near transformers' f32") {
  // A bf16 number has 8 significant bits, so every stored activation is off by up to 2^-9 = 0.2 %; in a few blocks that
  // grows to about ten times as much in single logits and gradients. Measured: see the messages (-s).
  for (const char* name : {"gpt2_a", "gpt2_b", "gpt2_c"}) {
    const Result r = compare(name, DType::bf16, kCpu, {});
    CHECK(r.loss <= 5e-3);
    CHECK(r.logits <= 3e-2);
    CHECK(r.worst_grad <= 6e-2);
  }
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("the CUDA kernels, run by the emulator, agree with transformers") {
  check_f32("gpt2_b", kEmu, {});
  check_f32("gpt2_a", kEmu, {});
  check_f32("gpt2_b", kEmu, with(true, false));
  CHECK(compare("gpt2_b", DType::bf16, kEmu, {}).worst_grad <= 6e-2);
}
#endif

TEST_CASE("a GPU agrees with transformers: fused, plain, recomputed; bf16 and f16") {
  const auto gpu = test_gpu();
  if (!gpu) return;
  for (const char* name : {"gpt2_a", "gpt2_b", "gpt2_c"}) {
    check_f32(name, *gpu, with(false, false));
    check_f32(name, *gpu, with(true, false));
    check_f32(name, *gpu, with(false, true));
    for (const DType half : {DType::bf16, DType::f16}) {  // bounds as on the CPU; those of bf16 cover f16
      const Result r = compare(name, half, *gpu, {});
      CHECK(r.loss <= 5e-3);
      CHECK(r.logits <= 3e-2);
      CHECK(r.worst_grad <= 6e-2);
    }
  }
}

TEST_CASE("recompute gives the same bits, with dropout too") {
  const Golden want("gpt2_a");
  std::vector<Device> devices = {kCpu};
  if (const auto gpu = test_gpu()) devices.push_back(*gpu);
  for (const Device device : devices) {
    const auto model = read_gpt_hf(golden("gpt2_a"), DType::f32, device);
    std::vector<float> grads[2];
    for (const bool again : {false, true}) {
      Context ctx = with(false, again);
      ctx.training = true;
      ctx.seed = 5;
      ctx.step = 3;
      model->params().zero_grads();
      const Tape tape;
      backward(model->loss(want.batch(device), ctx));
      grads[again] = model->params().grads().to_vector<float>();
    }
    CHECK(same_bits(grads[0], grads[1]));
  }
}

TEST_CASE("evaluate is the same mean") {
  const Golden want("gpt2_a");
  const auto model = read_gpt_hf(golden("gpt2_a"), DType::f32, kCpu);
  const EvalSums sums = model->evaluate(want.batch(kCpu), {});
  CHECK(sums.count == 2 * 16);
  CHECK(sums.loss / static_cast<double>(sums.count) == doctest::Approx(want.floats("loss")[0]).epsilon(1e-6));
}

TEST_CASE("generation with the cache gives the greedy tokens of full passes and of transformers") {
  for (const char* name : {"gpt2_a", "gpt2_b", "gpt2_c"}) {
    const auto model = read_gpt_hf(golden(name), DType::f32, kCpu);
    const auto want = Golden(name).ints("greedy");
    const auto best = [](const std::vector<float>& x) {
      return static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
    };
    std::vector<int32_t> cached(want.begin(), want.begin() + 5), full = cached;
    auto cache = model->make_cache(1);
    Tensor next = Tensor::from(cached, Shape{1, 5});
    const NoGrad quiet;
    const int64_t V = model->settings().vocab_size;
    while (cached.size() < want.size()) {
      const auto quick = model->next_logits(next, cache).to_vector<float>();
      cached.push_back(best(quick));
      next = Tensor::from(std::vector<int32_t>{cached.back()}, Shape{1, 1});
      const auto T = static_cast<int64_t>(full.size());
      const auto slow = model->logits(Tensor::from(full, Shape{1, T}), {}).view(Shape{T, V}).rows(T - 1, T);
      full.push_back(best(slow.to_vector<float>()));
      CHECK(relative_error(quick, slow.to_vector<float>()) < 1e-5);
    }
    CHECK(cached == want);
    CHECK(full == want);
    CHECK(model->settings().context == static_cast<int64_t>(want.size()));
    CHECK(cache.length() == model->settings().context - 1);
    const auto one_more = [&] { model->next_logits(Tensor::from(std::vector<int32_t>{1, 2}, Shape{1, 2}), cache); };
    check_sentence(error_of(one_more), {"no position left"});
  }
}
