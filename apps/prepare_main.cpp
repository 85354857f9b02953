// prepare: text files -> token files, single texts to ids and back, pictures -> shards.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/program.h"
#include "data/prepare_images.h"
#include "data/prepare_text.h"
#include "data/text_file.h"
#include "data/token_file.h"
#include "engine/core/file.h"

using namespace accrete;

namespace {

constexpr const char* kTokenizerHelp =
    "bytes, or a folder or file with tokenizer.json, vocab.json + merges.txt or encoder.json + vocab.bpe (also .gz)";

// prepare encode: one text -> a bare file of ids.
void encode(const std::string& tokenizer_name, const std::string& in, const std::string& out,
            const EncodeOptions& options, const ReportOptions& report) {
  const auto tokenizer = named_tokenizer(tokenizer_name);
  const TextFile text(in);
  if (text.invalid_sequences() > 0 && !options.refuse_invalid)
    report.log(in + ": " + std::to_string(text.invalid_sequences()) + " byte sequences are not UTF-8");
  const auto start = std::chrono::steady_clock::now();
  const std::vector<int32_t> ids = tokenizer->encode(text.bytes(), options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const int width = token_width(tokenizer->vocab_size());
  write_tokens(out, ids, width);
  if (report.json) {
    const nlohmann::ordered_json result = {{"tokens", ids.size()},
                                           {"bytes", text.bytes().size()},
                                           {"seconds", seconds},
                                           {"vocab_size", tokenizer->vocab_size()},
                                           {"dtype", width == 2 ? "uint16" : "uint32"}};
    std::cout << result.dump(2) << "\n";
  } else {
    char rate[64];
    std::snprintf(rate, sizeof rate, "%.3f s, %.1f MB/s", seconds,
                  static_cast<double>(text.bytes().size()) / 1e6 / seconds);
    report.log(std::to_string(ids.size()) + " tokens of " + std::to_string(8 * width) + " bits, encoded in " + rate);
  }
}

// prepare decode: ids -> the exact bytes of the text.
void decode(const std::string& tokenizer_name, const std::string& in, const std::string& out) {
  const auto tokenizer = named_tokenizer(tokenizer_name);
  const TokenFile tokens = TokenFile::open(in, tokenizer->vocab_size());
  std::vector<int32_t> ids(static_cast<size_t>(tokens.size()));
  tokens.copy(0, tokens.size(), ids.data());
  const std::string text = tokenizer->decode(ids);
  if (out.empty()) {
    std::cout.write(text.data(), static_cast<std::streamsize>(text.size()));
  } else {
    write_text(out, text);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Prepares data for training.", "prepare");
  app.require_subcommand(1);
  app.set_help_flag();
  app.set_help_all_flag("-h,--help", "Print every command and option and exit");

  PrepareText options;
  ReportOptions report;
  std::string in, out, tokenizer;
  EncodeOptions encoding;

  CLI::App* text = app.add_subcommand("text", "Text files -> token files, meta.json and tokenizer files in a folder");
  text->add_option("--in", options.train, "Training text files, UTF-8, plain or .gz")->required();
  text->add_option("--valid", options.valid,
                   "Validation text files (default: taken from the end of the training text)");
  text->add_option("--test", options.test, "Test text files (default: none)");
  text->add_option("--valid-fraction", options.valid_fraction,
                   "Without --valid: share of the training bytes that becomes the validation split, cut at a line end; "
                   "0 for none")
      ->capture_default_str();
  text->add_option("--tokenizer", options.tokenizer,
                   std::string("train-bpe:SIZE to train one on the training split, ") + kTokenizerHelp)
      ->required();
  text->add_flag("--allow-special", options.allow_special,
                 "Special tokens written in the text, such as <|endoftext|>, become their ids (default: off)");
  text->add_option("--out", options.out, "Folder for the result; made when it does not exist")->required();
  add_threads_option(*text, options.threads);
  add_report_options(*text, report);

  PrepareImages pictures;
  CLI::App* img = app.add_subcommand("images", "Pictures -> shards, an index for each split and meta.json in a folder");
  img->add_option("--in", pictures.in,
                  "Folder with train/<class>/* and val/<class>/*, CIFAR binaries, IDX files (MNIST), or shards")
      ->required();
  img->add_option("--out", pictures.out, "Folder for the result; made when it does not exist")->required();
  img->add_option(
         "--max-side", pictures.max_side,
         "Pictures whose shorter side has more pixels are shrunk to it and encoded anew; 0: all stay as they are")
      ->capture_default_str();
  img->add_flag("--pixels", pictures.pixels,
                "Store every picture decoded: about eight times the space, and nothing to decode in training "
                "(default: off)");
  img->add_option("--quality", pictures.quality, "Quality of the JPEG that a shrunk picture becomes, 1..100")
      ->capture_default_str();
  add_threads_option(*img, pictures.threads);
  add_report_options(*img, report);

  CLI::App* enc =
      app.add_subcommand("encode", "One text -> a file of token ids (little-endian u16, or u32 when needed)");
  enc->add_option("--tokenizer", tokenizer, kTokenizerHelp)->required();
  enc->add_option("--in", in, "Text file, UTF-8, plain or .gz")->required();
  enc->add_option("--out", out, "File for the ids")->required();
  enc->add_flag("--allow-special", encoding.allow_special,
                "Special tokens written in the text become their ids (default: off)");
  enc->add_flag("--strict", encoding.refuse_invalid, "Refuse text that is not UTF-8 (default: replace it by U+FFFD)");
  add_threads_option(*enc, encoding.threads);
  add_report_options(*enc, report);

  CLI::App* dec = app.add_subcommand("decode", "A file of token ids -> text");
  dec->add_option("--tokenizer", tokenizer, kTokenizerHelp)->required();
  dec->add_option("--in", in, "File of ids: bare u16 or u32, or an llm.c shard")->required();
  dec->add_option("--out", out, "File for the text (default: stdout)");

  return run_program(app, argc, argv, [&] {
    if (text->parsed()) {
      const TokenMeta meta = prepare_text(options, [&](const std::string& line) { report.log(line); });
      if (report.json) std::cout << meta.to_json();
    } else if (img->parsed()) {
      const ImageMeta meta = prepare_images(pictures, [&](const std::string& line) { report.log(line); });
      if (report.json) std::cout << meta.to_json();
    } else if (enc->parsed()) {
      encode(tokenizer, in, out, encoding, report);
    } else {
      decode(tokenizer, in, out);
    }
  });
}
