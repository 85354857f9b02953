// The program evaluate: its sums against a double-precision computation from the logits, window by window.
#include <doctest/doctest.h>

#include <random>

#include "engine/core/json.h"
#include "tests/gpt_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

// n ids below `vocab` as u16.
std::vector<int32_t> put_ids(const fs::path& path, size_t n, int vocab) {
  std::mt19937 random(7);
  std::vector<int32_t> ids;
  std::string bytes;
  for (size_t i = 0; i < n; ++i) {
    const int id = static_cast<int>(random() % static_cast<unsigned>(vocab));
    ids.push_back(id);
    bytes += static_cast<char>(id & 255);
    bytes += static_cast<char>(id >> 8);
  }
  put_file(path, bytes);
  return ids;
}

// Sum of -log p(ids[p]) over all p > 0, each from the first window of `length` tokens, at multiples of `stride`, that
// reaches it. Softmax in double.
double nll_by_hand(const Gpt& model, const std::vector<int32_t>& ids, size_t length, size_t stride) {
  const auto vocab = static_cast<size_t>(model.settings().vocab_size);
  double sum = 0;
  size_t done = 1;
  for (size_t begin = 0; done < ids.size(); begin += stride) {
    const size_t count = std::min(length, ids.size() - 1 - begin);
    const std::vector<int32_t> window(ids.begin() + static_cast<long>(begin),
                                      ids.begin() + static_cast<long>(begin + count));
    const auto logits =
        model.logits(Tensor::from(window, Shape{1, static_cast<int64_t>(count)}), Context{}).to_vector<float>();
    for (; done < begin + count + 1; ++done) {
      const float* row = logits.data() + (done - 1 - begin) * vocab;
      double total = 0;
      for (size_t v = 0; v < vocab; ++v) total += std::exp(static_cast<double>(row[v]));
      sum += std::log(total) - static_cast<double>(row[static_cast<size_t>(ids[done])]);
    }
  }
  return sum;
}

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

nlohmann::json evaluate(const std::string& arguments) {
  const RunResult r = run("$APPS/evaluate " + arguments + " --json --quiet");
  REQUIRE_MESSAGE(r.exit_code == 0, r.err);
  CHECK(r.err.empty());
  return nlohmann::json::parse(r.out);
}

constexpr const char* kMeta =
    R"({"vocab_size": 97, "dtype": "uint16", "splits": {"valid": {"file": "valid.bin", "tokens": 200, "bytes": 611,
       "words": 103, "lines": 17}}})";

}  // namespace

TEST_CASE("evaluate: loss and perplexities equal those computed by hand") {
  const TempFolder folder;
  const fs::path model_path = golden("gpt2_a");
  const auto model = read_gpt_hf(model_path, DType::f32, kCpu);
  const auto ids = put_ids(folder / "valid.bin", 200, 97);
  put_file(folder / "meta.json", kMeta);

  // The sums are f32 logits and f32 losses of a row added in double: 1e-5 is some ten roundings.
  const double nll = nll_by_hand(*model, ids, 33, 33);
  const nlohmann::json j = evaluate(quoted(model_path) + " --data " + quoted(folder.path()));
  CHECK(j["task"] == "perplexity");
  CHECK(j["split"] == "valid");
  CHECK(j["length"] == 33);
  CHECK(j["tokens"] == 200);
  CHECK(j["predicted_tokens"] == 199);  // all but the first
  CHECK(j["nll"].get<double>() == doctest::Approx(nll).epsilon(1e-5));
  CHECK(j["loss"].get<double>() == doctest::Approx(nll / 199).epsilon(1e-5));
  CHECK(j["perplexity"].get<double>() == doctest::Approx(std::exp(nll / 199)).epsilon(1e-4));
  CHECK(j["word_perplexity"].get<double>() == doctest::Approx(std::exp(nll / 103)).epsilon(1e-4));
  CHECK(j["word_perplexity_with_line_ends"].get<double>() == doctest::Approx(std::exp(nll / 120)).epsilon(1e-4));
  CHECK(j["bits_per_byte"].get<double>() == doctest::Approx(nll / (611 * std::log(2.0))).epsilon(1e-5));
  CHECK(j["denominators"] == nlohmann::json({{"words", 103}, {"words_and_line_ends", 120}, {"bytes", 611}}));

  SUBCASE("overlapping windows") {
    const nlohmann::json s =
        evaluate(quoted(model_path) + " --length 20 --stride 7 --batch 3 --data " + quoted(folder.path()));
    CHECK(s["predicted_tokens"] == 199);
    CHECK(s["stride"] == 7);
    CHECK(s["nll"].get<double>() == doctest::Approx(nll_by_hand(*model, ids, 20, 7)).epsilon(1e-5));
  }
  SUBCASE("a bare file, loss only") {
    const TempFolder bare;
    fs::copy_file(folder / "valid.bin", bare / "ids.bin");
    const nlohmann::json s = evaluate(quoted(model_path) + " --task loss --data " + quoted(bare / "ids.bin"));
    CHECK(s["loss"] == j["loss"]);
    CHECK_FALSE(s.contains("perplexity"));
    CHECK_FALSE(s.contains("split"));
    const nlohmann::json p = evaluate(quoted(model_path) + " --data " + quoted(bare / "ids.bin"));
    CHECK(p["perplexity"] == j["perplexity"]);
    CHECK_FALSE(p.contains("word_perplexity"));
  }
  SUBCASE("part of the text has no measure per word") {
    const nlohmann::json s = evaluate(quoted(model_path) + " --batch 2 --batches 1 --data " + quoted(folder.path()));
    CHECK(s["predicted_tokens"] == 66);
    CHECK_FALSE(s.contains("word_perplexity"));
  }
  SUBCASE("bf16 is close, one thread the same") {
    const nlohmann::json b = evaluate(quoted(model_path) + " --precision bf16 --data " + quoted(folder.path()));
    CHECK(b["loss"].get<double>() == doctest::Approx(nll / 199).epsilon(0.01));  // bf16 keeps 8 bits
    CHECK(b["loss"] != j["loss"]);
    const nlohmann::json one = evaluate(quoted(model_path) + " --threads 1 --data " + quoted(folder.path()));
    CHECK(one["nll"].get<double>() == doctest::Approx(j["nll"].get<double>()).epsilon(1e-6));
  }
#if defined(ACCRETE_WITH_EMULATOR)
  SUBCASE("on a device with memory of its own") {
    const std::string part = quoted(model_path) + " --length 8 --batch 2 --batches 2 --data " + quoted(folder.path());
    const nlohmann::json there = evaluate(part + " --device emu"), here = evaluate(part + " --device cpu");
    CHECK(there["predicted_tokens"] == 32);
    CHECK(there["loss"].get<double>() == doctest::Approx(here["loss"].get<double>()).epsilon(1e-5));
  }
#endif
  SUBCASE("for people: every denominator is printed") {
    const RunResult r = run("$APPS/evaluate " + quoted(model_path) + " --data " + quoted(folder.path()));
    CHECK(r.exit_code == 0);
    for (const char* part : {"199 predicted", "over 199", "over 103", "over 120", "over 611", "first token"})
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
  }
}

TEST_CASE("evaluate: bad input is refused in one sentence") {
  const TempFolder folder;
  const std::string model = quoted(golden("gpt2_a"));
  put_ids(folder / "valid.bin", 200, 97);
  put_file(folder / "meta.json", kMeta);
  const std::string data = " --data " + quoted(folder.path());
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const RunResult r = run("$APPS/evaluate " + arguments + " --quiet");
    CAPTURE(r.err);
    CHECK(r.one_line_error());
    CHECK_MESSAGE(r.err.find(part) != std::string::npos, part);
  };
  refused(model + " --data nowhere", "nowhere does not exist");
  refused("nowhere" + data, "nowhere does not exist");
  refused(model + data + " --split test", "has no split \"test\"");
  refused(model + data + " --split dev", "dev not in");
  refused(model + data + " --task lambada", "lambada not in");
  refused(model + data + " --length 34", "exceeds the model's context of 33");
  refused(model + data + " --stride 35", "stride must be 1..34");
  refused(model, "--data is required");
  for (const char* option : {"--per-class", "--resolution 32", "--crop-pct 0.9", "--confusion c.csv"})
    refused(model + data + " " + option, "are for pictures");

  std::string other = kMeta;
  other.replace(other.find("97"), 2, "98");
  put_file(folder / "meta.json", other);
  refused(model + data, "the vocabularies differ");
  fs::remove(folder / "meta.json");
  put_ids(folder / "valid.bin", 200, 400);
  refused(model + data, "outside the vocabulary");
  put_file(folder / "valid.bin", "");
  refused(model + data, "valid.bin");
}
