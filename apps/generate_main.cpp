// generate: continues a text with a trained model.
#include <chrono>
#include <iostream>
#include <utility>

#include "apps/generation.h"
#include "apps/program.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "engine/core/json.h"
#include "models/registry.h"

using namespace accrete;

namespace {

struct Options {
  std::string model, prompt, tokenizer, device = "auto", precision = "f32";
  int threads = 1;
  bool greedy = false, ignore_end = false;
  GenerateOptions generate;
  ReportOptions report;
};

std::unique_ptr<Tokenizer> tokenizer_of(const Options& o) {
  const std::filesystem::path place =
      o.tokenizer.empty() ? find_tokenizer(o.model) : std::filesystem::path(o.tokenizer);
  check(!place.empty(), "generate", "no tokenizer lies beside ", o.model, "; hint: name one with --tokenizer");
  return load_tokenizer(place);
}

void run(Options o) {
  set_threads(o.threads);
  set_tf32(o.precision == "tf32");
  if (o.greedy) o.generate.sampling.temperature = 0;
  check_sampling(o.generate.sampling);
  const auto model = load_model(o.model, compute_type(o.precision), parse_device(o.device));
  const auto* gpt = dynamic_cast<const Gpt*>(model.get());
  check(gpt != nullptr, "generate", o.model, " is a ", model->family(), " model; expected gpt");
  const auto tokenizer = tokenizer_of(o);
  const auto end = tokenizer->end_of_text();
  o.generate.vocab_size = tokenizer->vocab_size();
  if (!o.ignore_end) o.generate.stop = end;

  std::vector<int32_t> prompt = tokenizer->encode(o.prompt, {.allow_special = true});
  if (prompt.empty()) {
    check(end.has_value(), "generate", "the prompt is empty and the tokenizer has no end-of-text token to begin after");
    prompt.push_back(*end);
  }
  StreamDecoder decoder(*tokenizer);
  std::string text, waiting = o.prompt;  // shown with the first token: nothing is printed when generation fails
  const auto show = [&](std::string piece) {
    piece = std::exchange(waiting, "") + piece;
    text += piece;
    if (!o.report.json) std::cout << piece << std::flush;
  };
  const auto begin = std::chrono::steady_clock::now();
  const Generated result = generate(*gpt, prompt, o.generate, [&](int32_t id) { show(decoder.push(id)); });
  show(decoder.finish());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (o.report.json) {
    const Json j = {{"prompt", repair_utf8(o.prompt)},
                    {"text", repair_utf8(text)},
                    {"prompt_ids", prompt},
                    {"ids", result.ids},
                    {"end", result.stopped ? "end_of_text" : "length"},
                    {"restarts", result.restarts},
                    {"seconds", seconds},
                    {"tokens_per_second", static_cast<double>(result.ids.size()) / std::max(seconds, 1e-9)}};
    std::cout << j.dump(2) << "\n";
  } else {
    std::cout << "\n";
  }
  if (result.restarts > 0)
    o.report.log("the context of " + std::to_string(gpt->settings().context) + " tokens was full " +
                 std::to_string(result.restarts) + " times; its last half was read again");
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Continues a text with a trained model.", "generate");
  app.add_option(
         "MODEL", o.model,
         "Run folder (its newest finished checkpoint), checkpoint, Hugging Face GPT-2 folder or .safetensors file")
      ->required();
  app.add_option("--prompt", o.prompt, "Text to continue; empty: begin a new text (default: empty)");
  app.add_option("--tokens", o.generate.tokens,
                 "Largest number of new tokens; the text ends earlier at an end-of-text token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--temperature", o.generate.sampling.temperature,
                 "Logits are divided by it: below 1 safer, above 1 wilder, 0 the most probable token")
      ->capture_default_str();
  app.add_option("--top-k", o.generate.sampling.top_k, "Choose among the K most probable tokens; 0: all")
      ->capture_default_str();
  app.add_option("--top-p", o.generate.sampling.top_p,
                 "Choose among the most probable tokens that together have probability P; 1: all")
      ->capture_default_str();
  app.add_flag("--greedy", o.greedy, "Always the most probable token, as --temperature 0 (default: off)");
  app.add_option("--seed", o.generate.sampling.seed, "The same seed gives the same text")->capture_default_str();
  app.add_flag("--ignore-end", o.ignore_end, "Go on after an end-of-text token (default: off)");
  app.add_option("--tokenizer", o.tokenizer, "Folder or file of the tokenizer (default: beside the model)");
  app.add_option("--precision", o.precision, "Number type of activations and products: f32, tf32, bf16 or f16")
      ->check(CLI::IsMember({"f32", "tf32", "bf16", "f16"}))
      ->capture_default_str();
  add_device_option(app, o.device);
  add_threads_option(app, o.threads);
  add_report_options(app, o.report);
  app.footer(
      "A model has a longest context. When it is full, its last half is read again as the beginning of a new text and "
      "generation goes on;\na prompt that is longer than the context is cut to that length from its end.");
  return run_program(app, argc, argv, [&] { run(o); });
}
