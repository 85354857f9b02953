// The program `prepare`, run as a person would run it: results, and one clear sentence for every kind of bad input.
#include <doctest/doctest.h>

#include <set>

#include "data/text_file.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "engine/core/json.h"
#include "tests/program_testing.h"
#include "tests/shared_data.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

// Some 6 kB of lines with numbers, so that no two are equal.
std::string lines(int first, int count) {
  std::string text;
  for (int i = first; i < first + count; ++i)
    text += "Line " + std::to_string(i) + " says: the naïve café don't open at " + std::to_string(i % 24) + ":00.\n";
  return text;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

// The command fails with exit code 1 and one line that contains `expected`.
void refused(const std::string& command, const std::string& expected) {
  const RunResult result = run(command);
  CAPTURE(command);
  CAPTURE(result.err);
  CAPTURE(result.exit_code);
  CHECK(result.one_line_error());
  CHECK(result.err.find(expected) != std::string::npos);
}

std::string in_folder(const TempFolder& folder, const std::string& command) {
  return "cd '" + folder.path().string() + "' && " + command;
}

}  // namespace

TEST_CASE("prepare text: files, counts, tokenizer, and the way back") {
  const TempFolder folder;
  put_file(folder / "a.txt", lines(0, 100));
  put_file(folder / "b.txt", "A second document, without a line end");
  put_file(folder / "v.txt", lines(1000, 10));
  const RunResult result = run(in_folder(
      folder,
      "$APPS/prepare text --in a.txt b.txt --valid v.txt --test v.txt --tokenizer train-bpe:300 --out d --json"));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(names_in(folder / "d") == std::set<std::string>{"train.bin", "valid.bin", "test.bin", "meta.json",
                                                        "tokenizer.json", "vocab.json", "merges.txt",
                                                        "tokenizer_config.json", "special_tokens_map.json"});
  CHECK(result.out == file_bytes(folder / "d/meta.json"));
  const TokenMeta meta = TokenMeta::from_json(result.out, "meta");
  CHECK(meta.vocab_size == 300);
  CHECK(meta.width == 2);
  CHECK(meta.end_of_text == 0);
  const TextCounts both = meta.splits.at("train").text;
  CHECK(both.bytes == static_cast<int64_t>(lines(0, 100).size()) + 37);
  CHECK(both.lines == 101);
  CHECK(both.words == 100 * 10 + 7);
  CHECK(meta.splits.at("valid").text.lines == 10);

  // train.bin is the first document, an end of text, the second.
  const auto tokenizer = load_tokenizer(folder / "d");
  const TokenStream train = TokenStream::open(folder / "d", "train");
  std::vector<int32_t> ids(static_cast<size_t>(train.size()));
  train.copy(0, train.size(), ids.data());
  CHECK(tokenizer->decode(ids) == lines(0, 100) + "<|endoftext|>A second document, without a line end");
  CHECK(file_bytes(folder / "d/valid.bin") == file_bytes(folder / "d/test.bin"));

  // A second run, without a test file, leaves nothing of the first behind.
  REQUIRE(run(in_folder(folder, "$APPS/prepare text --in a.txt --tokenizer bytes --out d --quiet")).exit_code == 0);
  CHECK_FALSE(fs::exists(folder / "d/test.bin"));
  const TokenStream bytes = TokenStream::open(folder / "d", "train");
  CHECK(bytes.vocab_size() == 257);
  const TokenStream rest = TokenStream::open(folder / "d", "valid");  // the last tenth, from a line start
  const std::string text = lines(0, 100);
  CHECK(bytes.size() + rest.size() == static_cast<int64_t>(text.size()));
  CHECK(text[static_cast<size_t>(bytes.size()) - 1] == '\n');
  CHECK(rest.size() < static_cast<int64_t>(text.size()) / 10 + 1);
  CHECK(rest.size() > static_cast<int64_t>(text.size()) / 12);
}

TEST_CASE("prepare encode and decode are inverse; .gz in; the same ids with any number of threads") {
  if (!gzip_supported()) return;
  const TempFolder folder;
  put_file(folder / "t.txt", lines(0, 5000) + "<|endoftext|>");
  REQUIRE(run(in_folder(folder, "$APPS/prepare text --in t.txt --tokenizer train-bpe:400 --valid-fraction 0 --out d"))
              .exit_code == 0);
  CHECK_FALSE(fs::exists(folder / "d/valid.bin"));
  const RunResult result = run(in_folder(
      folder,
      "gzip -k t.txt && $APPS/prepare encode --tokenizer d --in t.txt --out one.bin --threads 1 --quiet && "
      "$APPS/prepare encode --tokenizer d/tokenizer.json --in t.txt.gz --out four.bin --threads 4 --json && "
      "cmp one.bin four.bin && cmp one.bin d/train.bin && $APPS/prepare decode --tokenizer d --in one.bin --out back "
      "&& cmp back t.txt && $APPS/prepare encode --tokenizer d --in t.txt --out special.bin --allow-special"));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(parse_json(result.out, "json")["bytes"] == fs::file_size(folder / "t.txt"));
  const TokenFile special = TokenFile::open(folder / "special.bin");
  int32_t last = -1;
  special.copy(special.size() - 1, 1, &last);
  CHECK(last == 0);
  CHECK(run(in_folder(folder, "$APPS/prepare decode --tokenizer d --in special.bin")).out ==
        lines(0, 5000) + "<|endoftext|>");
}

TEST_CASE("A vocabulary above 65,536 ids is written with four bytes an id") {
  const TempFolder folder;
  nlohmann::json vocab;
  int next = 0;
  for (const char c : std::string("abcdefghijklmnopqrstuvwxyz")) vocab[std::string(1, c)] = next++;
  vocab["Ċ"] = next++;
  for (char a = 'a'; a <= 'z'; ++a)
    for (char b = 'a'; b <= 'z'; ++b)
      for (char c = 'a'; c <= 'z'; ++c)
        for (char d = 'a'; d <= 'd'; ++d) vocab[std::string{a, b, c, d}] = next++;
  vocab["zy"] = next;
  put_file(folder / "vocab.json", vocab.dump());
  put_file(folder / "merges.txt", "#version: 0.2\nz y\n");
  put_file(folder / "t.txt", "azy\nzyz\n");
  const RunResult result = run(in_folder(folder,
                                         "$APPS/prepare encode --tokenizer . --in t.txt --out i.bin && "
                                         "$APPS/prepare decode --tokenizer . --in i.bin"));
  CAPTURE(result.err);
  CHECK(result.out == "azy\nzyz\n");
  CHECK(fs::file_size(folder / "i.bin") == 6 * 4);
}

TEST_CASE("prepare: bad input gets one sentence and exit code 1") {
  const TempFolder folder;
  put_file(folder / "empty.txt", "");
  put_file(folder / "good.txt", lines(0, 50));
  put_file(folder / "short.txt", "x");
  put_file(folder / "nul.txt", std::string("abc\0def", 7));
  put_file(folder / "latin1.txt",
           "caf\xE9 cr\xE8me br\xFBl\xE9"
           "e, na\xEFve\n");
  put_file(folder / "broken.json", "{\"model\":");
  put_file(folder / "ids.bin", std::string("\x01\x00\x02\x00\xFF\x7F", 6));
  put_file(folder / "odd.bin", "abc");
  fs::create_directories(folder / "nothing");
  const auto text = [&](const std::string& rest, const std::string& expected) {
    refused(in_folder(folder, "$APPS/prepare text " + rest), expected);
  };
  const std::string bytes = " --tokenizer bytes --out o";
  text("--in missing.txt" + bytes, "cannot open missing.txt: No such file or directory");
  text("--in nothing" + bytes, "nothing is not a regular file");
  text("--in empty.txt" + bytes, "empty.txt is empty; expected text");
  text("--in nul.txt" + bytes, "nul.txt is not text: byte 3 is NUL");
  text("--in latin1.txt" + bytes, "the first at byte 3; convert it with iconv");
  text("--in short.txt" + bytes, "too short to take a validation part from");
  text("--in good.txt --valid missing.txt" + bytes, "cannot open missing.txt");
  text("--in good.txt --valid-fraction 1.5" + bytes, "must be from 0 to below 1; got 1.5");
  text("--in good.txt --tokenizer nowhere --out o", "there is no tokenizer at nowhere");
  text("--in good.txt --tokenizer nothing --out o", "nothing holds no tokenizer; expected tokenizer.json");
  text("--in good.txt --tokenizer broken.json --out o", "not valid JSON");
  text("--in good.txt --tokenizer train-bpe:many --out o", "expected train-bpe:SIZE with a whole number");
  text("--in good.txt --tokenizer train-bpe:100 --out o", "expected a size of 257");
  text("--in good.txt --tokenizer bytes --out good.txt/o", "cannot create the folder good.txt/o");
  text("--in good.txt --tokenizer bytes", "--out is required");
  text("--in good.txt --surprise 3" + bytes, "--surprise");
  text("--in good.txt --threads 0" + bytes, "--threads");
  refused("$APPS/prepare", "subcommand");
  refused(in_folder(folder, "$APPS/prepare decode --tokenizer bytes --in ids.bin"), "token 2 has the id 32767");
  refused(in_folder(folder, "$APPS/prepare decode --tokenizer bytes --in odd.bin"), "got a size of 3 bytes");
  refused(in_folder(folder, "$APPS/prepare decode --tokenizer train-bpe:300 --in ids.bin"), "needs a text to train on");
  refused(in_folder(folder, "$APPS/prepare encode --tokenizer bytes --in good.txt --out nowhere/i"), "nowhere/i");
  put_file(folder / "one_bad.txt", lines(0, 50) + "\xFF\n");
  refused(in_folder(folder, "$APPS/prepare encode --strict --tokenizer bytes --in one_bad.txt --out i"),
          "not valid UTF-8 at byte");
  const RunResult repaired =
      run(in_folder(folder, "$APPS/prepare text --in one_bad.txt --tokenizer train-bpe:300 --out fixed"));
  CHECK(repaired.exit_code == 0);
  CHECK(repaired.err.find("1 byte sequences are not UTF-8") != std::string::npos);
  CHECK_FALSE(fs::exists(folder / "o/meta.json"));
  CHECK(names_in(folder.path()).count("i") == 0);
}

TEST_CASE("prepare: damaged .gz") {
  if (!gzip_supported()) return;
  const TempFolder folder;
  put_file(folder / "t.txt", lines(0, 2000));
  REQUIRE(run(in_folder(folder, "gzip t.txt")).exit_code == 0);
  const std::string packed = file_bytes(folder / "t.txt.gz");
  put_file(folder / "cut.gz", packed.substr(0, packed.size() / 2));
  refused(in_folder(folder, "$APPS/prepare text --in cut.gz --tokenizer bytes --out o"), "ends too early");
  std::string damaged = packed;
  damaged[packed.size() / 2] ^= 0x55;
  put_file(folder / "bad.gz", damaged);
  refused(in_folder(folder, "$APPS/prepare text --in bad.gz --tokenizer bytes --out o"), "bad.gz is");
  put_file(folder / "twice.gz", packed + packed);  // members follow one another
  CHECK(InputFile(folder / "twice.gz").bytes() == lines(0, 2000) + lines(0, 2000));
  CHECK_THROWS(InputFile(folder / "t.txt.gz", 1000));  // a bomb does not unpack beyond the limit
}

TEST_CASE("prepare: when writing fails, the earlier result is whole and nothing half-made stays") {
  const TempFolder folder;
  put_file(folder / "t.txt", lines(0, 100));
  put_file(folder / "large.txt", lines(0, 20000));
  REQUIRE(run(in_folder(folder, "$APPS/prepare text --in t.txt --tokenizer bytes --out d")).exit_code == 0);
  const std::string before = file_bytes(folder / "d/train.bin"), meta = file_bytes(folder / "d/meta.json");
  const auto names = names_in(folder / "d");
  // A limit on the size of files stands in for a full disk: write() fails half-way in the same manner.
  refused(in_folder(folder,
                    "trap '' XFSZ; ulimit -f 100; $APPS/prepare text --in large.txt --tokenizer bytes --out d "
                    "--quiet"),
          "cannot write d/");
  CHECK(file_bytes(folder / "d/train.bin") == before);
  CHECK(file_bytes(folder / "d/meta.json") == meta);
  CHECK(names_in(folder / "d") == names);
}

TEST_CASE("prepare --help names every option with its default") {
  const RunResult result = run("$APPS/prepare --help");
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  for (const char* word : {"text", "encode", "decode", "--in", "--valid", "--test", "--valid-fraction", "--tokenizer",
                           "--out", "--threads", "--json", "--quiet", "--allow-special", "--strict", "0.1"})
    CHECK(result.out.find(word) != std::string::npos);
}

TEST_CASE("prepare text on WikiText-2: the published word and line counts") {
  const fs::path train = shared_file("text/wikitext-2/train.txt"), valid = shared_file("text/wikitext-2/valid.txt"),
                 test = shared_file("text/wikitext-2/test.txt");
  if (train.empty() || valid.empty() || test.empty()) return;
  const TempFolder folder;
  const RunResult result =
      run("$APPS/prepare text --in '" + train.string() + "' --valid '" + valid.string() + "' --test '" + test.string() +
          "' --tokenizer train-bpe:8192 --json --quiet --out '" + folder.path().string() + "'");
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const TokenMeta meta = TokenMeta::from_json(result.out, "meta");
  CHECK(meta.splits.at("train").text.words == 2051910);
  CHECK(meta.splits.at("train").text.lines == 36718);
  CHECK(meta.splits.at("valid").text.words == 213886);
  CHECK(meta.splits.at("valid").text.lines == 3760);
  CHECK(meta.splits.at("test").text.words == 241211);
  CHECK(meta.splits.at("test").text.bytes == 1256449);
}

TEST_CASE("download.sh: a mirror, an archive, a wrong file, a name that does not exist") {
  const TempFolder folder;
  const std::string script = ACCRETE_SOURCE_DIR "/data/download.sh";
  // The real script with the checksum of an archive made here.
  const RunResult result =
      run(in_folder(folder,
                    "mkdir -p m cifar-10-batches-bin && echo records > cifar-10-batches-bin/test_batch.bin && "
                    "tar czf m/cifar-10-binary.tar.gz cifar-10-batches-bin && sum=$(md5sum m/*.gz | cut -d' ' -f1) && "
                    "sed s/c32a1d4ab5d03f1284b67883e8d87530/$sum/ '" +
                        script +
                        "' > copy.sh && "
                        "bash copy.sh cifar10 --out got --mirror file://$PWD/m && bash copy.sh cifar10 --out got "
                        "--mirror file:///x"));
  CAPTURE(result.err);
  CHECK(result.exit_code == 0);
  CHECK(file_bytes(folder / "got/test_batch.bin") == "records\n");
  CHECK(result.out.find("already here") != std::string::npos);  // the second time nothing is fetched

  const RunResult wrong = run(in_folder(folder, "bash '" + script + "' cifar10 --out bad --mirror file://$PWD/m"));
  CHECK(wrong.exit_code == 1);
  CHECK(wrong.err.find("its checksum differs from md5:c32a1d4a") != std::string::npos);
  CHECK(fs::is_empty(folder / "bad"));
  refused("bash '" + script + "' imagenet", "unknown data set \"imagenet\"; expected one of: wikitext-2");

  const fs::path text = shared_file("text/tinyshakespeare/input.txt");
  if (text.empty() || text.extension() == ".gz") return;  // a packed file is not the one that is checked
  CHECK(run("bash '" + script + "' tinyshakespeare --out '" + (folder / "ts").string() + "' --mirror 'file://" +
            text.parent_path().string() + "'")
            .exit_code == 0);
  CHECK(fs::file_size(folder / "ts/input.txt") == 1115394);
}
