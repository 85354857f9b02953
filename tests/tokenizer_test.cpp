// Byte-level BPE: Unicode classes, the split into pieces, ids against GPT-2's own and the Hugging Face library's,
// files.
#include "data/tokenizer.h"

#include <doctest/doctest.h>

#include <chrono>
#include <map>
#include <random>
#include <sstream>

#include "data/bpe.h"
#include "data/bpe_train.h"
#include "data/pretokenize.h"
#include "data/unicode.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "tests/op_testing.h"
#include "tests/program_testing.h"
#include "tests/shared_data.h"

using namespace accrete;
using nlohmann::json;

namespace {

const json& golden() {
  static const json file = parse_json(file_bytes(ACCRETE_SOURCE_DIR "/tests/golden/bpe.json"), "golden");
  return file;
}

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> found;
  for (size_t at = 0; at < text.size();) {
    const size_t end = piece_end(text, at);
    found.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return found;
}

using Texts = std::vector<std::string>;

std::string as_text(const std::vector<int32_t>& ids) {
  std::string out;
  for (const int32_t id : ids) out += (out.empty() ? "" : " ") + std::to_string(id);
  return out;
}

// Valid UTF-8 with everything in it: runs of one letter, white space of all kinds, marks, four-byte characters.
std::string random_text(std::mt19937& rng, int length) {
  static const Texts parts = {
      "a", "b", "c",  "aa",     " ",      "  ",     "\n",     "\t",     "'s",         "'ll",
      "7", "é", "日", "\u0301", "\u00a0", "\u2003", "\r\n",   ".",      "\U0001F642", "_",
      "'", "x", "LL", "ſ",      "٣",      "\u0939", "\u093f", "\ufeff", "\0",         "<|endoftext|>"};
  std::string text;
  for (int i = 0; i < length; ++i) text += parts[rng() % parts.size()];
  return text;
}

std::unique_ptr<Tokenizer> gpt2() {
  const auto file = shared_file("tokenizers/gpt2/tokenizer.json");
  return file.empty() ? nullptr : load_tokenizer(file);
}

}  // namespace

TEST_CASE("Unicode classes have the counts of Unicode 14") {
  int64_t count[4] = {};
  for (uint32_t code = 0; code < 0x110000; ++code) ++count[static_cast<int>(char_class(code))];
  CHECK(count[static_cast<int>(CharClass::letter)] == 131756);
  CHECK(count[static_cast<int>(CharClass::number)] == 1791);
  CHECK(count[static_cast<int>(CharClass::space)] == 25);
  CHECK(char_class(0x1C) == CharClass::other);  // white space for Python's str.isspace, not for Unicode
  CHECK(char_class(0x110000) == CharClass::other);
}

TEST_CASE("UTF-8: every code point goes there and back, invalid bytes are replaced as Unicode recommends") {
  int wrong = 0;
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const Utf8Step step = decode_utf8(text, 0);
    wrong += !(step.valid && step.code == code && step.length == text.size());
  }
  CHECK(wrong == 0);
  // Expected values: bytes.decode("utf-8", errors="replace") of Python.
  const std::string r = "\ufffd";
  CHECK(repair_utf8("a\x80z") == "a" + r + "z");
  CHECK(repair_utf8("\xC0\xAF") == r + r);                  // overlong
  CHECK(repair_utf8("\xED\xA0\x80") == r + r + r);          // a surrogate
  CHECK(repair_utf8("\xF0\x9F\x99x") == r + "x");           // one replacement for a cut-off character
  CHECK(repair_utf8("\xF4\x90\x80\x80") == r + r + r + r);  // above U+10FFFF
  CHECK(repair_utf8("\xE2\x82") == r);
  CHECK(repair_utf8("12345678\xFF"
                    "12345678é") == "12345678" + r + "12345678é");
  CHECK(find_invalid_utf8("12345678é\xFFx") == 10);
  CHECK(find_invalid_utf8("12345678é") == std::string_view::npos);
  CHECK(count_invalid_utf8("\x80 \x80") == 2);
}

TEST_CASE("Texts split as GPT-2's pattern does") {
  CHECK(pieces("  x") == Texts{" ", " x"});
  CHECK(pieces("a\n\n\nb") == Texts{"a", "\n\n", "\n", "b"});
  CHECK(pieces("x \n y") == Texts{"x", " \n", " y"});
  CHECK(pieces("  \n  x") == Texts{"  \n ", " x"});
  CHECK(pieces("x'S 's'") == Texts{"x", "'", "S", " '", "s", "'"});
  CHECK(pieces("DON'T don't we'll we've") == Texts{"DON", "'", "T", " don", "'t", " we", "'ll", " we", "'ve"});
  CHECK(pieces("end ") == Texts{"end", " "});
  CHECK(pieces("abc123def") == Texts{"abc", "123", "def"});
  CHECK(pieces("\u0939\u093f\u0928\u094d\u0926\u0940").size() == 6);
  CHECK(pieces("a\xFF\xFE b") == Texts{"a", "\xFF\xFE", " b"});
}

TEST_CASE("Stretches for threads begin where pieces begin, whatever their number") {
  std::mt19937 rng(3);
  for (int trial = 0; trial < 200; ++trial) {
    const std::string text = random_text(rng, 60);
    Texts cut;
    const std::vector<size_t> cuts = piece_cuts(text, 1 + trial % 9);
    REQUIRE(cuts.front() == 0);
    REQUIRE(cuts.back() == text.size());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      REQUIRE(cuts[i] < cuts[i + 1]);
      for (size_t at = cuts[i]; at < cuts[i + 1];) {
        const size_t end = piece_end(text, at);
        REQUIRE(end <= cuts[i + 1]);
        cut.push_back(text.substr(at, end - at));
        at = end;
      }
    }
    CHECK(cut == pieces(text));
  }
  CHECK(piece_cuts("", 4) == std::vector<size_t>{0});
}

TEST_CASE("Byte table") {
  CHECK(bytes_to_characters(" \n\t!~") == "ĠĊĉ!~");
  std::string all, back;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  CHECK(characters_to_bytes(bytes_to_characters(all), back));
  CHECK(back == all);
  CHECK_FALSE(characters_to_bytes("a b", back));
  CHECK_FALSE(characters_to_bytes("日", back));
}

TEST_CASE("Hugging Face tokenizers: the same ids, also with added tokens of every kind") {
  const auto tokenizer = parse_tokenizer_json(golden()["tokenizer"].dump(), "golden");
  for (const json& sample : golden()["samples"]) {
    const std::string text = sample["text"];
    CAPTURE(text);
    CHECK(tokenizer->encode(text, {.allow_special = true}) == sample["ids"].get<std::vector<int32_t>>());
  }
  CHECK(tokenizer->end_of_text() == 0);
  CHECK(tokenizer->encode("<|endoftext|>").size() > 1);  // ordinary text unless allowed
}

TEST_CASE("Long and short pieces merge as the definition says") {
  // The definition: find the neighbours of lowest rank, merge all of them from left to right, repeat.
  const auto tokenizer = parse_tokenizer_json(golden()["tokenizer"].dump(), "golden");
  const Bpe::Parts& parts = dynamic_cast<const Bpe&>(*tokenizer).parts();
  std::map<std::pair<std::string, std::string>, size_t> rank;
  for (size_t i = 0; i < parts.merges.size(); ++i)
    rank.emplace(std::pair(parts.vocab[parts.merges[i].first], parts.vocab[parts.merges[i].second]), i);
  std::mt19937 rng(5);
  const Texts syllables = {"k", "a", "t", "o", "m",   "i",  "r", "s", "e",
                           "n", "l", "q", "u", "ing", "th", "é", "ß", "日"};
  for (int trial = 0; trial < 400; ++trial) {
    std::string word;
    const int length = trial % 2 ? 1 + static_cast<int>(rng() % 12) : 30 + static_cast<int>(rng() % 200);
    for (int i = 0; i < length; ++i) word += syllables[rng() % syllables.size()];
    Texts symbols;
    for (const char byte : word) symbols.push_back(bytes_to_characters(std::string(1, byte)));
    while (true) {
      size_t best = parts.merges.size();
      for (size_t i = 0; i + 1 < symbols.size(); ++i)
        if (const auto it = rank.find({symbols[i], symbols[i + 1]}); it != rank.end())
          best = std::min(best, it->second);
      if (best == parts.merges.size()) break;
      const std::string left = parts.vocab[parts.merges[best].first], right = parts.vocab[parts.merges[best].second];
      Texts merged;
      for (size_t i = 0; i < symbols.size(); ++i) {
        const bool both = i + 1 < symbols.size() && symbols[i] == left && symbols[i + 1] == right;
        merged.push_back(both ? left + right : symbols[i]);
        i += both;
      }
      symbols = merged;
    }
    Texts got;
    for (const int32_t id : tokenizer->encode(word)) got.push_back(parts.vocab[id]);
    CHECK(got == symbols);
  }
}

TEST_CASE("Decoding inverts encoding; a stream holds back unfinished characters; threads change nothing") {
  std::mt19937 rng(11);
  const auto bpe = parse_tokenizer_json(golden()["tokenizer"].dump(), "golden");
  const auto bytes = make_byte_tokenizer();
  for (int trial = 0; trial < 100; ++trial) {
    const std::string text = random_text(rng, trial);
    for (const Tokenizer* tokenizer : {bpe.get(), bytes.get()}) {
      const std::vector<int32_t> ids = tokenizer->encode(text, {.allow_special = trial % 2 == 0});
      CHECK(tokenizer->decode(ids) == text);
      StreamDecoder stream(*tokenizer);
      std::string streamed;
      for (const int32_t id : ids) {
        const std::string ready = stream.push(id);
        CHECK(find_invalid_utf8(ready) == std::string_view::npos);
        streamed += ready;
      }
      CHECK(streamed + stream.finish() == text);
    }
  }
  std::string large;
  while (large.size() < 500000) large += random_text(rng, 50);
  const std::vector<int32_t> ids = bpe->encode(large);
  for (const int threads : {2, 3, 7}) CHECK(bpe->encode(large, {.threads = threads}) == ids);

  StreamDecoder stream(*bytes);  // garbage comes out as decode + repair would show it
  std::string streamed;
  const std::string garbage = "\xE2\x82\xC3\xA9\xF0\x9F\x99\xFF\xE2";
  for (const char byte : garbage) streamed += stream.push(static_cast<uint8_t>(byte));
  CHECK(streamed + stream.finish() == repair_utf8(garbage));
}

TEST_CASE("Byte tokenizer: 257 ids, any bytes") {
  const auto tokenizer = make_byte_tokenizer();
  CHECK(tokenizer->vocab_size() == 257);
  CHECK(tokenizer->end_of_text() == 256);
  std::string all;
  for (int byte = 255; byte >= 0; --byte) all += static_cast<char>(byte);
  const std::vector<int32_t> ids = tokenizer->encode(all);
  REQUIRE(ids.size() == 256);
  CHECK(ids[0] == 255);
  CHECK(tokenizer->decode(ids) == all);
  CHECK(as_text(tokenizer->encode("a<|endoftext|>", {.allow_special = true})) == "97 256");
  CHECK(error_of([&] { tokenizer->decode(std::vector<int32_t>{257}); }) ==
        "[tokenizer] token id 257 is outside the vocabulary; expected 0..256");
  CHECK(error_of([&] { tokenizer->encode("a\xFF", {.refuse_invalid = true}); }) ==
        "[tokenizer] the text is not valid UTF-8 at byte 1");
}

TEST_CASE("Saved files read back to the same tokenizer, in every form") {
  const auto golden_tokenizer = parse_tokenizer_json(golden()["tokenizer"].dump(), "golden");
  const auto bytes = make_byte_tokenizer();
  std::mt19937 rng(13);
  const std::string text = random_text(rng, 300);
  for (const Tokenizer* tokenizer : {golden_tokenizer.get(), bytes.get()}) {
    const TempFolder folder, again;
    tokenizer->save(folder.path());
    const auto loaded = load_tokenizer(folder.path());
    CHECK(loaded->kind() == tokenizer->kind());
    CHECK(loaded->encode(text, {.allow_special = true}) == tokenizer->encode(text, {.allow_special = true}));
    loaded->save(again.path());
    for (const char* name :
         {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"})
      CHECK(file_bytes(folder / name) == file_bytes(again / name));
  }
  const TempFolder folder;
  golden_tokenizer->save(folder.path());
  std::filesystem::remove(folder / "tokenizer.json");
  CHECK(load_tokenizer(folder.path())->encode("ka tomi") == golden_tokenizer->encode("ka tomi"));
  std::filesystem::rename(folder / "vocab.json", folder / "encoder.json");
  CHECK(error_of([&] { load_tokenizer(folder.path()); }).find("encoder.json but not vocab.bpe") != std::string::npos);
  std::filesystem::rename(folder / "merges.txt", folder / "vocab.bpe");
  CHECK(load_tokenizer(folder / "encoder.json")->encode("ka tomi") == golden_tokenizer->encode("ka tomi"));
  CHECK(error_of([&] { load_tokenizer(folder / "nothing"); }).find("there is no tokenizer at") != std::string::npos);
}

TEST_CASE("tokenizer.json: what can not be honoured is refused by name") {
  const json good = golden()["tokenizer"];
  const auto refused = [&](auto&& change, const std::string& expected) {
    json changed = good;
    change(changed);
    const std::string got = error_of([&] { parse_tokenizer_json(changed.dump(), "t"); });
    CAPTURE(got);
    CHECK(got.find(expected) != std::string::npos);
  };
  refused([](json& j) { j["model"]["type"] = "Unigram"; }, "model of type \"Unigram\" is not supported");
  refused([](json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "pre_tokenizer of type \"Metaspace\"");
  refused([](json& j) { j["pre_tokenizer"] = nullptr; }, "pre_tokenizer is null");
  refused([](json& j) { j["decoder"] = {{"type", "Fuse"}}; }, "decoder of type \"Fuse\"");
  refused([](json& j) { j["post_processor"] = {{"type", "BertProcessing"}}; }, "post_processor of type");
  refused([](json& j) { j["normalizer"] = {{"type", "NFC"}}; }, "normalizer of type \"NFC\"");
  refused([](json& j) { j["model"]["dropout"] = 0.1; }, "\"dropout\" is set");
  refused([](json& j) { j["model"]["byte_fallback"] = true; }, "\"byte_fallback\" is set");
  refused([](json& j) { j["model"].erase("vocab"); }, "\"vocab\" is missing");
  refused([](json& j) { j["model"]["vocab"]["a"] = 66; }, "the id 66 belongs to two tokens");
  refused([](json& j) { j["model"]["vocab"].erase("ka"); }, "is missing from the vocabulary");
  refused([](json& j) { j["model"]["vocab"]["new"] = 2000000000; }, "ids are missing below it");
  refused([](json& j) { j["model"]["vocab"]["new"] = -1; }, "has no valid id");
  refused([](json& j) { j["model"]["vocab"]["new"] = 1.5; }, "has no valid id");
  refused([](json& j) { j["model"]["vocab"]["new"] = 18446744073709551615ull; }, "has no valid id");
  refused([](json& j) { j["model"]["vocab"]["a b"] = 378; }, "not written in the 256 characters");
  refused([](json& j) { j["model"]["merges"].push_back("only"); }, "two tokens with one space between");
  refused([](json& j) { j["model"]["merges"].push_back({"a", 1}); }, "must be [\"a\", \"b\"] or \"a b\"");
  refused([](json& j) { j["model"]["merges"].push_back({"a", "nowhere"}); }, "\"nowhere\", which is not in the");
  refused([](json& j) { j["model"]["merges"].push_back({"!", "!"}); }, "makes a token that is not in the vocabulary");
  refused([](json& j) { j["added_tokens"][0]["content"] = ""; }, "two tokens");
  refused([](json& j) { j["added_tokens"].push_back(j["added_tokens"][1]); }, "two added tokens have the id");
  refused([](json& j) { j["added_tokens"][1]["special"] = 3; }, "\"special\" must be true or false");
  refused([](json& j) { j = json::array(); }, "expected a JSON object");
  CHECK(error_of([] { parse_tokenizer_json("{\"model\":", "t"); }).find("not valid JSON") != std::string::npos);
  // A pair of the same key would silently lose one of two ids.
  CHECK(error_of([] { parse_vocab_and_merges("{\"a\":0,\"a\":1}", "", "v"); }).find("twice") != std::string::npos);
  CHECK(error_of([] { parse_vocab_and_merges("{\"a\":0}", "", "v")->encode("b"); }) ==
        "[bpe] the vocabulary has no token for the byte 98");
  json old = good;  // files of older library versions: merges as strings, no type
  for (json& merge : old["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  old["model"].erase("type");
  CHECK(parse_tokenizer_json(old.dump(), "t")->encode("kato mi") ==
        parse_tokenizer_json(good.dump(), "t")->encode("kato mi"));
}

TEST_CASE("GPT-2: published ids") {
  const auto tokenizer = gpt2();
  if (!tokenizer) return;
  CHECK(tokenizer->vocab_size() == 50257);
  CHECK(tokenizer->end_of_text() == 50256);
  const std::pair<std::string, std::string> cases[] = {
      {"Hello world", "15496 995"},
      {"Hello, world!", "15496 11 995 0"},
      {" hello", "23748"},
      {"The quick brown fox jumps over the lazy dog.", "464 2068 7586 21831 18045 625 262 16931 3290 13"},
      {"tokenization", "30001 1634"},
      {"ROMEO:\n", "33676 4720 25 198"},
      {"\n\n", "628"},
      {"a\n\n\nb", "64 628 198 65"},
      {"a  b   c", "64 220 275 220 220 269"},
      {"   ", "220 220 220"},
      {"  \n  x", "220 220 198 220 2124"},
      {"Hello\tworld\r\n", "15496 197 6894 201 198"},
      {"I'm you're he'll DON'T don't", "40 1101 345 821 339 1183 23917 6 51 836 470"},
      {"don\u2019t", "9099 447 247 83"},
      {"\u2163\u2164\u00b2\u00b3", "158 227 96 158 227 97 31185 126 111"},
      {"na\u00efve caf\u00e9 \u00dcber", "2616 38776 40304 49363 527"},
      {"e\u0301", "68 136 223"},
      {"\u65e5\u672c\u8a9e \u4e2d\u6587", "33768 98 17312 105 45739 252 220 40792 23877 229"},
      {"\U0001F468\u200d\U0001F469", "41840 101 447 235 41840 102"},
      {"\u00a0x\u2003y", "1849 87 447 225 88"},
      {"<|endoftext|>", "27 91 437 1659 5239 91 29"},
      {"", ""},
  };
  for (const auto& [text, ids] : cases) CHECK(as_text(tokenizer->encode(text)) == ids);
  CHECK(as_text(tokenizer->encode("<|endoftext|>", {.allow_special = true})) == "50256");
}

TEST_CASE("GPT-2: reference encodings, all lines and whole files, from every form of the files") {
  const auto lines_file = shared_file("tokenizers/reference/gpt2.jsonl");
  const auto table = shared_file("tokenizers/reference/whole_files.tsv");
  if (lines_file.empty() || table.empty()) return;
  const auto folder = lines_file.parent_path().parent_path() / "gpt2";
  for (const char* name : {"tokenizer.json", "encoder.json", ""}) {
    CAPTURE(name);
    const auto tokenizer = load_tokenizer(*name ? folder / name : folder);
    std::istringstream lines{std::string(InputFile(lines_file).bytes())};
    int count = 0;
    for (std::string line; std::getline(lines, line); ++count) {
      const json entry = json::parse(line);
      const std::string text = entry["text"];
      const std::vector<int32_t> ids = tokenizer->encode(text);
      CHECK(ids == entry["ids"].get<std::vector<int32_t>>());
      CHECK(tokenizer->decode(ids) == text);
    }
    CHECK(count == 127);
  }
  const auto tokenizer = load_tokenizer(folder);
  std::istringstream rows{std::string(InputFile(table).bytes())};
  int compared = 0;
  for (std::string kind, file, tokens, hash; rows >> kind >> file >> tokens >> hash;) {
    if (kind != "gpt2") continue;
    const auto path = shared_file(file);
    if (path.empty()) continue;
    const TextFile text(path);
    const std::vector<int32_t> ids = tokenizer->encode(text.bytes(), {.threads = 2});
    const std::vector<uint16_t> narrow(ids.begin(), ids.end());
    CHECK(std::to_string(ids.size()) == tokens);
    CHECK(sha256_hex({reinterpret_cast<const char*>(narrow.data()), narrow.size() * 2}) == hash);
    CHECK(tokenizer->decode(ids) == text.bytes());
    ++compared;
  }
  CHECK(compared == 3);
}

TEST_CASE("GPT-2: a million times the same letter is not quadratic") {
  const auto tokenizer = gpt2();
  if (!tokenizer) return;
  const std::string text(1000000, 'a');
  const auto start = std::chrono::steady_clock::now();
  const std::vector<int32_t> ids = tokenizer->encode(text);
  // 0.3 s on one core; a quadratic merge would need hours.
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(30));
  CHECK(tokenizer->decode(ids) == text);
}
