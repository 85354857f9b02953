// Generation: the cache against full passes, the end of the context, and the program.
#include "apps/generation.h"

#include "data/tokenizer.h"
#include "engine/core/json.h"
#include "models/registry.h"
#include "tests/gpt_testing.h"
#include "tests/gpu_testing.h"

using namespace accrete;

namespace {

// The same text without a cache: every token from a full pass over what the rule of generate() keeps in view.
std::vector<int32_t> slowly(const Gpt& model, std::vector<int32_t> text, int64_t tokens, const SamplingOptions& o) {
  const NoGrad quiet;
  const size_t context = static_cast<size_t>(model.settings().context), prompt = text.size();
  const int64_t V = model.settings().vocab_size;
  size_t first = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    if (text.size() - first > context) first = text.size() - context / 2;
    const std::vector<int32_t> view(text.begin() + static_cast<long>(first), text.end());
    const auto T = static_cast<int64_t>(view.size());
    const Tensor y = model.logits(Tensor::from(view, Shape{1, T}), {});
    text.push_back(sample_token(y.view(Shape{T, V}).rows(T - 1, T).to_vector<float>(), o, static_cast<uint64_t>(i)));
  }
  return {text.begin() + static_cast<long>(prompt), text.end()};
}

// A byte-level model of random weights in a folder that the program can open.
void write_byte_model(const std::filesystem::path& folder, int64_t vocab_size = 257) {
  GptConfig c;
  c.vocab_size = vocab_size;
  c.context = 16;
  c.embed_dim = 24;
  c.depth = 2;
  c.num_heads = 3;
  c.init_std = 0.3;
  Gpt model(c, DType::f32, kCpu);
  model.params().initialise(11);
  write_gpt_hf(folder, model);
  make_byte_tokenizer()->save(folder, c.context);
}

}  // namespace

TEST_CASE("golden greedy text, streamed in order") {
  for (const char* name : {"gpt2_a", "gpt2_b"}) {
    const auto model = read_gpt_hf(golden(name), DType::f32, kCpu);
    const auto want = Golden(name).ints("greedy");
    GenerateOptions o;
    o.sampling.temperature = 0;
    o.tokens = static_cast<int64_t>(want.size()) - 5;
    std::vector<int32_t> streamed;
    const Generated g = generate(*model, std::span(want).first(5), o, [&](int32_t id) { streamed.push_back(id); });
    CHECK(g.ids == std::vector<int32_t>(want.begin() + 5, want.end()));
    CHECK(streamed == g.ids);
    CHECK(g.restarts == 0);
    CHECK_FALSE(g.stopped);
    // The same, ended by a token.
    o.stop = want[9];
    const Generated stopped = generate(*model, std::span(want).first(5), o);
    CHECK(stopped.stopped);
    CHECK(stopped.ids.size() <= 4);
    CHECK(std::equal(stopped.ids.begin(), stopped.ids.end(), want.begin() + 5));
  }
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("golden greedy text from the CUDA kernels, run by the emulator") {
  const auto model = read_gpt_hf(golden("gpt2_b"), DType::f32, kEmu);
  const auto want = Golden("gpt2_b").ints("greedy");
  GenerateOptions o;
  o.sampling.temperature = 0;
  o.tokens = 6;
  CHECK(generate(*model, std::span(want).first(5), o).ids == std::vector<int32_t>(want.begin() + 5, want.end()));
}
#endif

TEST_CASE("golden greedy text from a GPU, by the program too") {
  const auto gpu = test_gpu();
  if (!gpu) return;
  for (const char* name : {"gpt2_a", "gpt2_b"}) {
    const auto model = read_gpt_hf(golden(name), DType::f32, *gpu);
    const auto want = Golden(name).ints("greedy");
    GenerateOptions o;
    o.sampling.temperature = 0;
    o.tokens = static_cast<int64_t>(want.size()) - 5;
    CHECK(generate(*model, std::span(want).first(5), o).ids == std::vector<int32_t>(want.begin() + 5, want.end()));
  }
  const TempFolder folder;
  write_byte_model(folder.path());
  const std::string command = "$APPS/generate '" + folder.path().string() + "' --prompt Hello --tokens 30 --quiet";
  const RunResult there = run(command + " --greedy --device cuda"), here = run(command + " --greedy --device cpu");
  CHECK_MESSAGE(there.exit_code == 0, there.err);
  CHECK(there.out == here.out);
  for (const char* precision : {"bf16", "f16", "tf32"})
    CHECK(run(command + " --device cuda --precision " + precision).exit_code == 0);
}

TEST_CASE("beyond the context the last half is read again") {
  const auto model = read_gpt_hf(golden("gpt2_b"), DType::f32, kCpu);  // context 11
  GenerateOptions o;
  o.tokens = 40;
  for (const double temperature : {0.0, 1.0}) {
    o.sampling.temperature = temperature;
    for (const size_t length : {1u, 5u, 11u, 12u, 30u}) {
      std::vector<int32_t> prompt;
      for (size_t i = 0; i < length; ++i) prompt.push_back(static_cast<int32_t>(7 * i % 29));
      const Generated g = generate(*model, prompt, o);
      CHECK(g.ids == slowly(*model, prompt, o.tokens, o.sampling));
      CHECK(g.restarts >= 5);
    }
  }
}

TEST_CASE("only ids of the tokenizer are chosen from a padded vocabulary") {
  const auto model = read_gpt_hf(golden("gpt2_b"), DType::f32, kCpu);
  GenerateOptions o;
  o.tokens = 60;
  o.vocab_size = 3;
  const Generated g = generate(*model, std::vector<int32_t>{28}, o);
  CHECK(*std::max_element(g.ids.begin(), g.ids.end()) == 2);
  o.vocab_size = 30;
  check_sentence(error_of([&] { generate(*model, std::vector<int32_t>{1}, o); }), {"30 ids", "29"});
  check_sentence(error_of([&] { generate(*model, {}, {}); }), {"the prompt has no tokens"});
}

TEST_CASE("the program: the same seed gives the same text, on any number of threads") {
  const TempFolder folder;
  write_byte_model(folder.path());
  const std::string command = "$APPS/generate '" + folder.path().string() + "' --prompt Hello --tokens 30 --quiet";
  const RunResult a = run(command + " --seed 4"), b = run(command + " --seed 4 --threads 2"),
                  c = run(command + " --seed 5");
  CHECK_MESSAGE(a.exit_code == 0, a.err);
  CHECK(a.out.starts_with("Hello"));
  CHECK(a.out.ends_with("\n"));
  CHECK(a.err == "");
  CHECK(a.out == b.out);
  CHECK(a.out != c.out);

  const RunResult j = run(command + " --greedy --json --ignore-end");
  CHECK_MESSAGE(j.exit_code == 0, j.err);
  const auto result = parse_json(j.out, "test");
  CHECK(result["prompt_ids"] == nlohmann::json({'H', 'e', 'l', 'l', 'o'}));
  CHECK(result["ids"].size() == 30);
  CHECK(result["end"] == "length");
  CHECK(result["restarts"].get<int>() > 0);
  const auto model = read_gpt_hf(folder.path(), DType::f32, kCpu);
  CHECK(result["ids"].get<std::vector<int32_t>>() == slowly(*model, {'H', 'e', 'l', 'l', 'o'}, 30, {.temperature = 0}));
  CHECK(run(command + " --temperature 0 --ignore-end").out == result["text"].get<std::string>() + "\n");
  CHECK(run("$APPS/generate '" + folder.path().string() + "' --tokens 3 --quiet").exit_code == 0);  // empty prompt
  CHECK(run(command + " --precision bf16 --top-k 5 --top-p 0.9").exit_code == 0);
  CHECK(run("$APPS/generate --help").out.find("read again as the beginning") != std::string::npos);
}

TEST_CASE("the program refuses in one line") {
  const TempFolder folder, no_tokenizer, small;
  write_byte_model(folder.path());
  write_byte_model(no_tokenizer.path());
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt"}) std::filesystem::remove(no_tokenizer / name);
  write_byte_model(small.path(), 200);
  const auto refused = [](const std::string& arguments, const std::string& part) {
    const RunResult r = run("$APPS/generate " + arguments);
    CHECK_MESSAGE(r.one_line_error(), arguments << ": " << r.err);
    CHECK_MESSAGE(r.err.find(part) != std::string::npos, r.err);
  };
  const std::string model = folder.path().string();
  refused("/nowhere", "/nowhere does not exist");
  refused("", "MODEL");
  refused(model + " --temperature -1", "temperature");
  refused(model + " --top-p 1.5", "top-p");
  refused(model + " --top-k -2", "top-k");
  refused(model + " --device tpu", "tpu");
  refused(no_tokenizer.path().string(), "no tokenizer lies beside");
  refused(small.path().string() + " --prompt x", "257");
}
