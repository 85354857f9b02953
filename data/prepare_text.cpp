#include "data/prepare_text.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <deque>

#include "data/bpe_train.h"
#include "data/staging.h"
#include "engine/core/error.h"
#include "engine/core/file.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kTrainBpe = "train-bpe:";

using Documents = std::vector<std::string_view>;

// Where to cut a text near `at`: behind the next line end, else behind the one before, else at a character.
size_t line_cut(std::string_view text, size_t at) {
  if (const size_t next = text.find('\n', at); next != std::string_view::npos && next + 1 < text.size())
    return next + 1;
  if (const size_t previous = text.rfind('\n', at); previous != std::string_view::npos && previous + 1 < text.size())
    return previous + 1;
  while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) ++at;
  return at;
}

// Moves the last `fraction` of the bytes from train to valid.
void split_off(Documents& train, Documents& valid, double fraction) {
  size_t total = 0;
  for (const std::string_view text : train) total += text.size();
  size_t keep = static_cast<size_t>(std::floor(static_cast<double>(total) * (1 - fraction)));
  Documents kept;
  for (const std::string_view text : train) {
    if (!valid.empty()) {
      valid.push_back(text);
    } else if (keep < text.size()) {
      const size_t cut = line_cut(text, keep);
      if (cut > 0) kept.push_back(text.substr(0, cut));
      if (cut < text.size()) valid.push_back(text.substr(cut));
    } else {
      keep -= text.size();
      kept.push_back(text);
    }
  }
  check(!kept.empty() && !valid.empty(), "prepare", "the text is too short to take a validation part from: ", total,
        " bytes; give a file with --valid, or --valid-fraction 0");
  train = std::move(kept);
}

std::string with_unit(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, bytes < 1e6 ? "%.1f kB" : "%.1f MB", bytes < 1e6 ? bytes / 1e3 : bytes / 1e6);
  return text;
}

int64_t trained_size(const std::string& name) {
  int64_t size = 0;
  const char *begin = name.data() + kTrainBpe.size(), *end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(begin, end, size);
  check(error == std::errc() && stopped == end, "prepare", "expected train-bpe:SIZE with a whole number, such as ",
        "train-bpe:8192; got ", name);
  return size;
}

}  // namespace

std::unique_ptr<Tokenizer> named_tokenizer(const std::string& name) {
  if (name == "bytes") return make_byte_tokenizer();
  check(!name.starts_with(kTrainBpe), "prepare", name,
        " needs a text to train on; expected \"bytes\" or the folder of a ",
        "tokenizer, such as the output of prepare text");
  return load_tokenizer(name);
}

void write_tokens(const fs::path& path, std::span<const int32_t> ids, int width) {
  AtomicFile file(path);
  if (width == 4) {
    file.write(ids.data(), ids.size() * 4);
  } else {
    const std::vector<uint16_t> narrow(ids.begin(), ids.end());
    file.write(narrow.data(), narrow.size() * 2);
  }
  file.commit();
}

TokenMeta prepare_text(const PrepareText& options, const std::function<void(const std::string&)>& log) {
  check(!options.train.empty(), "prepare", "no training text is given");
  check(options.valid_fraction >= 0 && options.valid_fraction < 1, "prepare",
        "the validation fraction must be from 0 to below 1; got ", options.valid_fraction);

  std::deque<TextFile> files;  // a deque: the documents point into them
  const auto read = [&](const std::vector<fs::path>& paths) {
    Documents texts;
    for (const fs::path& path : paths) {
      const TextFile& file = files.emplace_back(path);
      if (file.invalid_sequences() > 0)
        log(path.string() + ": " + std::to_string(file.invalid_sequences()) +
            " byte sequences are not UTF-8 and become U+FFFD");
      texts.push_back(file.bytes());
    }
    return texts;
  };
  std::map<std::string, Documents> splits;
  splits["train"] = read(options.train);
  if (!options.valid.empty()) splits["valid"] = read(options.valid);
  if (!options.test.empty()) splits["test"] = read(options.test);
  if (options.valid.empty() && options.valid_fraction > 0)
    split_off(splits["train"], splits["valid"], options.valid_fraction);

  Staging staging(options.out);  // made before the work, so that a folder that cannot be written is noticed at once
  std::unique_ptr<Tokenizer> tokenizer;
  if (options.tokenizer.starts_with(kTrainBpe)) {
    const int64_t size = trained_size(options.tokenizer);
    const auto start = std::chrono::steady_clock::now();
    tokenizer = train_byte_bpe(splits["train"], size, options.threads);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    char time[32];
    std::snprintf(time, sizeof time, "%.2f s", seconds.count());
    log("tokenizer: " + std::to_string(tokenizer->vocab_size()) + " tokens, trained in " + time +
        (tokenizer->vocab_size() < size ? ", fewer than asked for: the text has no more pairs that occur twice" : ""));
  } else {
    tokenizer = named_tokenizer(options.tokenizer);
  }

  TokenMeta meta;
  meta.vocab_size = tokenizer->vocab_size();
  meta.width = token_width(meta.vocab_size);
  meta.tokenizer = tokenizer->kind();
  meta.end_of_text = tokenizer->end_of_text();
  const EncodeOptions encoding{.allow_special = options.allow_special, .threads = options.threads};
  for (const auto& [name, texts] : splits) {
    SplitMeta split;
    split.file = name + ".bin";
    std::vector<int32_t> ids;
    for (const std::string_view text : texts) {
      if (!ids.empty() && meta.end_of_text) ids.push_back(*meta.end_of_text);
      const std::vector<int32_t> part = tokenizer->encode(text, encoding);
      ids.insert(ids.end(), part.begin(), part.end());
      const TextCounts counts = count_text(text);
      split.text.bytes += counts.bytes, split.text.words += counts.words, split.text.lines += counts.lines;
    }
    split.tokens = static_cast<int64_t>(ids.size());
    write_tokens(staging.folder() / split.file, ids, meta.width);
    char ratio[32];
    std::snprintf(ratio, sizeof ratio, "%.2f",
                  static_cast<double>(split.text.bytes) / static_cast<double>(split.tokens));
    log(name + ": " + with_unit(static_cast<double>(split.text.bytes)) + ", " + std::to_string(split.tokens) +
        " tokens (" + ratio + " bytes each), " + std::to_string(split.text.words) + " words, " +
        std::to_string(split.text.lines) + " lines");
    meta.splits.emplace(name, split);
  }
  tokenizer->save(staging.folder());
  write_text(staging.folder() / "meta.json", meta.to_json());
  staging.publish("meta.json");
  // A split of an earlier run that this one does not have belongs to another vocabulary.
  for (const char* name : {"train", "valid", "test"}) {
    std::error_code ignored;
    if (!meta.splits.contains(name)) fs::remove(options.out / (std::string(name) + ".bin"), ignored);
  }
  return meta;
}

}  // namespace accrete
