// The files of a byte-level BPE tokenizer: tokenizer.json (Hugging Face tokenizers) and vocab.json + merges.txt (the
// same as OpenAI's encoder.json + vocab.bpe). Readers take text in memory; nothing in it is trusted.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/bpe.h"
#include "data/pretokenize.h"
#include "data/text_file.h"
#include "engine/core/error.h"
#include "engine/core/json.h"

namespace accrete {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr size_t kLargestFile = size_t{256} << 20;  // the largest published tokenizer.json has about 35 MB
constexpr std::string_view kEndOfText = "<|endoftext|>";

// ---- reading
// ---------------------------------------------------------------------------------------------------------

// Typed members of a JSON object with one sentence for every way in which they can be wrong.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    check(object.is_object(), where_, "expected a JSON object; got ", object.type_name());
  }
  const json* find(const char* key) const {  // nullptr when absent or null
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  const json& need(const char* key) const {
    const json* value = find(key);
    check(value != nullptr, where_, "\"", key, "\" is missing");
    return *value;
  }
  bool flag(const char* key, bool absent) const {
    const json* value = find(key);
    if (!value) return absent;
    check(value->is_boolean(), where_, "\"", key, "\" must be true or false");
    return value->get<bool>();
  }
  std::string text(const char* key) const {
    const json& value = need(key);
    check(value.is_string(), where_, "\"", key, "\" must be a string");
    return value.get<std::string>();
  }
  void refuse_unless_empty(const char* key) const {
    const json* value = find(key);
    const bool empty = !value || *value == json("") || *value == json(false) || *value == json(0.0);
    check(empty, where_, "\"", key, "\" is set, which byte-level BPE does not support here");
  }

 private:
  const json& object_;
  std::string where_;
};

int32_t read_id(const json& value, std::string_view token, const std::string& where) {
  check(value.is_number_integer() && value >= 0 && value <= 0x7FFFFFFE, where, "token \"", printable(token),
        "\" has no valid id; expected a whole number from 0; got ", printable(value.dump(), 40));
  return value.get<int32_t>();
}

// Collects token strings by id and makes sure that every id from 0 on has exactly one token.
class VocabBuilder {
 public:
  VocabBuilder(size_t most, std::string where) : tokens_(most), taken_(most), where_(std::move(where)) {}

  void add(const std::string& token, int32_t id, bool may_repeat = false) {
    check(static_cast<size_t>(id) < tokens_.size(), where_, "token \"", printable(token), "\" has the id ", id,
          " but there are only ", tokens_.size(), " tokens: ids are missing below it");
    if (taken_[id]) {
      check(may_repeat && tokens_[id] == token, where_, "the id ", id, " belongs to two tokens: \"",
            printable(tokens_[id]), "\" and \"", printable(token), "\"");
      return;
    }
    taken_[id] = true;
    tokens_[id] = token;
    ++count_;
  }
  std::vector<std::string> finish() {
    const auto hole = std::find(taken_.begin(), taken_.begin() + count_, false);
    check(hole == taken_.begin() + count_, where_, "the id ", hole - taken_.begin(), " is missing from the vocabulary");
    tokens_.resize(count_);
    return std::move(tokens_);
  }

 private:
  std::vector<std::string> tokens_;
  std::vector<bool> taken_;
  std::ptrdiff_t count_ = 0;
  std::string where_;
};

void add_vocab(VocabBuilder& builder, const json& vocab, const std::string& where) {
  check(vocab.is_object(), where, "the vocabulary must be an object {token: id}");
  for (const auto& [token, id] : vocab.items()) builder.add(token, read_id(id, token, where));
}

// Ids of the two halves of a merge, by name.
class MergeReader {
 public:
  MergeReader(const std::vector<std::string>& vocab, std::string where) : where_(std::move(where)) {
    id_of_.reserve(vocab.size());
    for (size_t i = 0; i < vocab.size(); ++i) id_of_.emplace(vocab[i], static_cast<int32_t>(i));
  }
  void add(std::string_view left, std::string_view right) {
    const auto id = [&](std::string_view token) {
      const auto it = id_of_.find(token);
      if (it == id_of_.end())
        fail(where_, "merge ", merges.size(), " names \"", printable(token), "\", which is not in the vocabulary");
      return it->second;
    };
    const int32_t left_id = id(left), right_id = id(right);
    merges.emplace_back(left_id, right_id);
  }
  void add_line(std::string_view line) {
    const size_t space = line.find(' ');
    check(space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos, where_, "merge ",
          merges.size(), " must be two tokens with one space between; got \"", printable(line), "\"");
    add(line.substr(0, space), line.substr(space + 1));
  }

  std::vector<std::pair<int32_t, int32_t>> merges;

 private:
  std::unordered_map<std::string_view, int32_t> id_of_;
  std::string where_;
};

// null is fine, {"type": expected} is returned, everything else is refused by name.
const json* component(const Fields& top, const char* role, const char* expected, const std::string& where) {
  const json* value = top.find(role);
  if (!value) return nullptr;
  const std::string type = Fields(*value, where + ": " + role).text("type");
  check(type == expected, where, role, " of type \"", printable(type), "\" is not supported; expected \"", expected,
        "\" or null");
  return value;
}

std::vector<AddedToken> read_added(const Fields& top, const std::string& where) {
  std::vector<AddedToken> added;
  const json* list = top.find("added_tokens");
  if (!list) return added;
  check(list->is_array(), where, "\"added_tokens\" must be a list");
  for (const json& item : *list) {
    const Fields fields(item, where + ": added_tokens");
    AddedToken token;
    token.content = fields.text("content");
    token.id = read_id(fields.need("id"), token.content, where);
    token.special = fields.flag("special", false);
    token.single_word = fields.flag("single_word", false);
    token.lstrip = fields.flag("lstrip", false);
    token.rstrip = fields.flag("rstrip", false);
    token.normalized = fields.flag("normalized", true);
    added.push_back(std::move(token));
  }
  return added;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& where) {
  check(text.size() <= kLargestFile, where, "is too large; expected at most ", kLargestFile, " bytes");
  const json root = parse_json(text, where, 16);
  const Fields top(root, where);
  // `truncation` and `padding` are settings of a use, not of the tokenizer; they are left to the caller.
  if (const json* normalizer = top.find("normalizer"))
    fail(where, "normalizer of type \"", printable(Fields(*normalizer, where + ": normalizer").text("type")),
         "\" is not supported; expected null");
  const Fields model(top.need("model"), where + ": model");
  // Files from before 0.10 of the library have no type; they are BPE when they list merges.
  const std::string type = model.find("type") || !model.find("merges") ? model.text("type") : "BPE";
  check(type == "BPE", where, "model of type \"", printable(type), "\" is not supported; expected \"BPE\"");
  for (const char* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"})
    model.refuse_unless_empty(key);

  Bpe::Parts parts;
  const json* split = component(top, "pre_tokenizer", "ByteLevel", where);
  check(split != nullptr, where, "pre_tokenizer is null; expected \"ByteLevel\"");
  const Fields byte_level(*split, where + ": pre_tokenizer");
  parts.add_prefix_space = byte_level.flag("add_prefix_space", true);
  parts.use_regex = byte_level.flag("use_regex", true);
  component(top, "post_processor", "ByteLevel", where);  // moves offsets, not ids
  component(top, "decoder", "ByteLevel", where);

  parts.added = read_added(top, where);
  const json& vocab = model.need("vocab");
  VocabBuilder builder(vocab.size() + parts.added.size(), where);
  add_vocab(builder, vocab, where);
  for (const AddedToken& token : parts.added) builder.add(token.content, token.id, /*may_repeat=*/true);
  parts.vocab = builder.finish();

  const json& merges = model.need("merges");
  check(merges.is_array(), where, "\"merges\" must be a list");
  MergeReader reader(parts.vocab, where);
  for (const json& merge : merges) {
    if (merge.is_string()) {
      reader.add_line(merge.get_ref<const std::string&>());
    } else {
      check(merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(), where, "merge ",
            reader.merges.size(), " must be [\"a\", \"b\"] or \"a b\"");
      reader.add(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
    }
  }
  parts.merges = std::move(reader.merges);
  return std::make_unique<Bpe>(std::move(parts));
}

std::unique_ptr<Tokenizer> parse_vocab_and_merges(std::string_view vocab_json, std::string_view merges,
                                                  const std::string& where) {
  const json vocab = parse_json(vocab_json, where, 4);
  Bpe::Parts parts;
  VocabBuilder builder(vocab.size(), where);
  add_vocab(builder, vocab, where);
  parts.vocab = builder.finish();
  if (const auto it = vocab.find(kEndOfText); it != vocab.end())
    parts.added.push_back({.id = it->get<int32_t>(), .content = std::string(kEndOfText)});

  MergeReader reader(parts.vocab, where);
  for (size_t at = 0; at < merges.size();) {
    const size_t end = std::min(merges.find('\n', at), merges.size());
    std::string_view line = merges.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(at == 0 && line.starts_with("#version"))) reader.add_line(line);
    at = end + 1;
  }
  parts.merges = std::move(reader.merges);
  return std::make_unique<Bpe>(std::move(parts));
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const auto read = [](const fs::path& file) { return InputFile(file, kLargestFile); };
  const auto json_at = [&](const fs::path& file) { return parse_tokenizer_json(read(file).bytes(), file.string()); };
  const auto pair_at = [&](const fs::path& vocab, const fs::path& merges) {
    return parse_vocab_and_merges(read(vocab).bytes(), read(merges).bytes(), vocab.string());
  };
  constexpr std::pair<const char*, const char*> kPairs[] = {{"vocab.json", "merges.txt"},
                                                            {"encoder.json", "vocab.bpe"}};
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (const fs::path file = plain_or_packed(path / "tokenizer.json"); !file.empty()) return json_at(file);
    for (const auto& [vocab, merges] : kPairs) {
      const fs::path first = plain_or_packed(path / vocab), second = plain_or_packed(path / merges);
      if (!first.empty() && !second.empty()) return pair_at(first, second);
      check(first.empty() || !second.empty(), "tokenizer", path.string(), " has ", vocab, " but not ", merges);
    }
    fail("tokenizer", path.string(),
         " holds no tokenizer; expected tokenizer.json, vocab.json + merges.txt or encoder.json + vocab.bpe");
  }
  const fs::path file = plain_or_packed(path);
  check(!file.empty(), "tokenizer", "there is no tokenizer at ", path.string(),
        "; expected a folder or file, \"bytes\" or \"train-bpe:SIZE\"");
  const std::string name = file.extension() == ".gz" ? file.stem().string() : file.filename().string();
  for (const auto& [vocab, merges] : kPairs) {
    if (name != vocab) continue;
    const fs::path second = plain_or_packed(file.parent_path() / merges);
    check(!second.empty(), "tokenizer", file.string(), " needs ", merges, " beside it");
    return pair_at(file, second);
  }
  return json_at(file);
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  Bpe::Parts parts;
  for (int byte = 0; byte < 256; ++byte)
    parts.vocab.push_back(bytes_to_characters(std::string(1, static_cast<char>(byte))));
  parts.vocab.emplace_back(kEndOfText);
  parts.added.push_back({.id = 256, .content = std::string(kEndOfText)});
  parts.use_regex = false;
  return std::make_unique<Bpe>(std::move(parts));
}

// ---- writing
// ---------------------------------------------------------------------------------------------------------

namespace {

std::string json_text(std::string_view text) { return json(text).dump(); }

std::string vocab_object(const std::vector<std::string>& vocab) {
  std::string out = "{";
  for (size_t id = 0; id < vocab.size(); ++id) out += (id ? "," : "") + json_text(vocab[id]) + ":" + std::to_string(id);
  return out + "}";
}

}  // namespace

void Bpe::save(const fs::path& folder, int64_t context) const {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  const std::string prefix = flag(parts_.add_prefix_space), regex = flag(parts_.use_regex);
  std::string added, merges, merge_lines = "#version: 0.2\n";
  for (const AddedToken& t : added_tokens()) {
    added += std::string(added.empty() ? "" : ",") + "\n  {\"id\":" + std::to_string(t.id) +
             ",\"content\":" + json_text(t.content) + ",\"single_word\":" + flag(t.single_word) +
             ",\"lstrip\":" + flag(t.lstrip) + ",\"rstrip\":" + flag(t.rstrip) +
             ",\"normalized\":" + flag(t.normalized) + ",\"special\":" + flag(t.special) + "}";
  }
  for (const auto& [left, right] : parts_.merges) {
    const std::string &a = parts_.vocab[left], &b = parts_.vocab[right];
    merges += (merges.empty() ? "[" : ",[") + json_text(a) + "," + json_text(b) + "]";
    merge_lines += a + " " + b + "\n";
  }
  const std::string vocab = vocab_object(parts_.vocab);

  write_text(folder / "tokenizer.json",
             "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":[" + added +
                 "],\n\"normalizer\":null,\n\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":" + prefix +
                 ",\"trim_offsets\":true,\"use_regex\":" + regex +
                 "},\n\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,"
                 "\"use_regex\":true},\n\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                 "\"trim_offsets\":true,\"use_regex\":true},\n\"model\":{\"type\":\"BPE\",\"dropout\":null,"
                 "\"unk_token\":null,\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"fuse_unk\":false,"
                 "\"byte_fallback\":false,\"ignore_merges\":false,\n\"vocab\":" +
                 vocab + ",\n\"merges\":[" + merges + "]}}\n");
  write_text(folder / "vocab.json", vocab + "\n");
  write_text(folder / "merges.txt", merge_lines);

  nlohmann::ordered_json config = {{"tokenizer_class", "GPT2Tokenizer"}, {"model_max_length", context}};
  nlohmann::ordered_json special = nlohmann::ordered_json::object();
  if (end_of_text())
    for (const char* role : {"bos_token", "eos_token", "unk_token"}) config[role] = special[role] = kEndOfText;
  config["add_prefix_space"] = parts_.add_prefix_space;
  write_text(folder / "tokenizer_config.json", config.dump(2) + "\n");
  write_text(folder / "special_tokens_map.json", special.dump(2) + "\n");
}

}  // namespace accrete
