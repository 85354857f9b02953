// evaluate on texts: how well a model predicts a split.
//
// Every token of the split is predicted once, except its very first, which has nothing before it: token measures are
// averages over the predicted tokens. Per-word and per-byte measures divide the total negative log likelihood (nll) by
// the counts of the original text that `prepare` noted, so they compare between tokenizers:
//   perplexity per word = exp(nll / words)       also with line ends counted as words, as word-level models do
//   bits per byte       = nll / (bytes ln 2)
#include <cmath>
#include <iomanip>
#include <iostream>

#include "apps/ceilings.h"
#include "apps/evaluate.h"
#include "data/token_source.h"
#include "data/tokenizer.h"
#include "engine/core/transfer.h"
#include "models/registry.h"
#include "training/progress.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

constexpr int64_t kLogitsBytes = int64_t{256} << 20;  // of one batch, unless --batch says otherwise

// A model and a text that were made with different tokenizers give numbers without meaning.
void check_vocabulary(const EvaluateOptions& o, const fs::path& tokens, int64_t model_vocab) {
  const fs::path folder = fs::is_directory(tokens) ? tokens : tokens.parent_path();
  const auto meta = TokenMeta::read(folder.empty() ? fs::path(".") : folder);
  if (!meta) return;
  check(meta->vocab_size <= model_vocab, "evaluate", "the vocabularies differ: ", tokens.string(), " has ",
        meta->vocab_size, " ids (tokenizer ", meta->tokenizer.empty() ? "unknown" : meta->tokenizer, "), the model ",
        model_vocab, "; prepare the text with the tokenizer of the model");
  const fs::path own = find_tokenizer(o.model), theirs = find_tokenizer(folder);
  if (own.empty() || theirs.empty()) return;
  const int64_t own_size = load_tokenizer(own)->vocab_size(), their_size = load_tokenizer(theirs)->vocab_size();
  check(own_size == their_size, "evaluate", "the tokenizers differ: ", tokens.string(), " was made with one of ",
        their_size, " ids, the model with one of ", own_size, "; prepare the text with the tokenizer of the model");
}

struct Result {
  EvalSums sums;
  int64_t windows = 0, all_windows = 0;
  double seconds = 0, flops = 0;
};

Result run_model(const EvaluateOptions& o, Model& model, const TokenSource& source, int64_t batch_size) {
  Result r;
  r.all_windows = source.epoch_samples();
  Progress::Options screen = terminal_options();
  screen.quiet = o.report.quiet;
  Progress progress(std::cerr, screen);
  ProgressState state;
  state.steps = (r.all_windows + batch_size - 1) / batch_size;
  if (o.batches > 0) state.steps = std::min(state.steps, o.batches);
  const double begin = now_seconds();
  Tape tape;
  const NoGrad quiet;
  BatchFeed feed(model.params().device());
  for (int64_t i = 0; i < state.steps; ++i) {
    const Batch batch = feed(source.get(i * batch_size, batch_size));
    const EvalSums sums = model.evaluate(batch, Context{});
    r.sums.loss += sums.loss;
    r.sums.count += sums.count;
    r.windows += batch.samples;
    r.seconds = now_seconds() - begin;
    state.step = i + 1;
    state.loss = r.sums.loss / static_cast<double>(std::max<int64_t>(1, r.sums.count));
    state.step_seconds = r.seconds / static_cast<double>(i + 1);
    state.rate = static_cast<double>(r.sums.count) / r.seconds;
    state.eta_seconds = state.step_seconds * static_cast<double>(state.steps - i - 1);
    progress.update(state, begin + r.seconds);
  }
  r.flops = tape.total_flops();
  return r;
}

Json to_result(const EvaluateOptions& o, const TokenSource& source, const WindowOptions& windows, const Result& r) {
  const int64_t tokens = source.tokens().size(), targets = r.sums.count;
  const double nll = r.sums.loss, loss = nll / static_cast<double>(targets);
  Json j;
  j["task"] = o.task;
  j["model"] = o.model;
  j["data"] = o.data;
  if (fs::is_directory(o.data)) j["split"] = o.split;
  j["precision"] = o.precision;
  j["length"] = windows.length;
  j["stride"] = windows.stride > 0 ? windows.stride : windows.length;
  j["windows"] = r.windows;
  j["tokens"] = tokens;
  j["predicted_tokens"] = targets;
  j["nll"] = nll;
  j["loss"] = loss;
  if (o.task == "perplexity") {
    j["perplexity"] = std::exp(loss);
    // Counts of the whole text fit only when the whole text was predicted.
    const auto& meta = source.tokens().meta();
    if (meta && targets == tokens - 1 && meta->tokens == tokens && meta->text.words > 0) {
      const auto words = static_cast<double>(meta->text.words), lines = static_cast<double>(meta->text.lines),
                 bytes = static_cast<double>(meta->text.bytes);
      j["word_perplexity"] = std::exp(nll / words);
      j["word_perplexity_with_line_ends"] = std::exp(nll / (words + lines));
      j["bits_per_byte"] = nll / (bytes * std::log(2.0));
      j["denominators"] = Json{{"words", meta->text.words},
                               {"words_and_line_ends", meta->text.words + meta->text.lines},
                               {"bytes", meta->text.bytes}};
    }
  }
  j["seconds"] = r.seconds;
  j["flops"] = r.flops;
  j["tokens_per_second"] = static_cast<double>(targets) / r.seconds;
  return j;
}

void print_text(const Json& j, bool partial) {
  std::cout << std::setprecision(6);
  std::cout << "data            " << j["data"].get<std::string>()
            << (j.contains("split") ? ", " + j["split"].get<std::string>() : "") << ": " << j["tokens"] << " tokens, "
            << j["predicted_tokens"] << " predicted in " << j["windows"] << " windows of " << j["length"] << " (stride "
            << j["stride"] << ")\n";
  const auto line = [&](const char* name, const char* key, const char* unit, const Json& denominator) {
    std::cout << std::left << std::setw(16) << name << std::setw(12) << j[key].get<double>() << unit << " over "
              << denominator << "\n";
  };
  line("loss", "loss", "nats per token,    ", j["predicted_tokens"]);
  if (j.contains("perplexity")) line("perplexity", "perplexity", "per token,         ", j["predicted_tokens"]);
  if (j.contains("denominators")) {
    const Json& d = j["denominators"];
    line("", "word_perplexity", "per word,          ", d["words"]);
    line("", "word_perplexity_with_line_ends", "with line ends,    ", d["words_and_line_ends"]);
    line("bits per byte", "bits_per_byte", "                   ", d["bytes"]);
    std::cout << "The first token of the text has nothing before it; it is not predicted and adds 0 to per-word and "
                 "per-byte sums.\n";
  } else if (j.contains("perplexity")) {
    std::cout << "No measure per word or byte: "
              << (partial ? "not every token of the text was predicted.\n"
                          : "no meta.json of `prepare` tells the words and bytes of this text.\n");
  }
  std::cout << j["seconds"].get<double>() << " s, " << format_count(j["tokens_per_second"].get<double>()) << " tok/s\n";
}

}  // namespace

void evaluate_text(const EvaluateOptions& o, Model& model) {
  check(o.resolution == 0 && o.crop_pct == 0 && !o.per_class && o.confusion.empty(), "evaluate",
        "--resolution, --crop-pct, --per-class and --confusion are for pictures; got a model of texts, family \"",
        model.family(), "\"");
  const fs::path data = o.data;
  const Json config = model.config();
  const auto vocab = config.at("vocab_size").get<int64_t>(), context = config.at("context").get<int64_t>();
  check_vocabulary(o, data, vocab);

  WindowOptions windows;
  windows.length = o.length > 0 ? o.length : context;
  windows.stride = o.stride;
  windows.sampling = Sampling::sequential;
  check(windows.length <= context, "evaluate", "--length ", windows.length, " exceeds the model's context of ",
        context);
  const TokenSource source(TokenStream::open(data, o.split, vocab), windows);
  const int64_t row_bytes = windows.length * vocab * size_of(model.params().compute_dtype());
  const int64_t batch =
      o.batch > 0 ? o.batch : std::clamp<int64_t>(kLogitsBytes / std::max<int64_t>(1, row_bytes), 1, 64);
  const Result r = run_model(o, model, source, batch);
  const Json j = to_result(o, source, windows, r);
  if (o.report.json)
    std::cout << j.dump(2) << "\n";
  else
    print_text(j, r.sums.count != source.tokens().size() - 1);
}

}  // namespace accrete
