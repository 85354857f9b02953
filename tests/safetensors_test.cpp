// Reader and writer of safetensors against published byte strings, a file of the reference implementation, and hostile
// input.
#include "engine/core/safetensors.h"

#include <doctest/doctest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"

namespace fs = std::filesystem;
using namespace accrete;

namespace {

// A folder for the files of this process, removed at the end.
const fs::path& scratch() {
  struct Folder {
    fs::path path = fs::temp_directory_path() / ("accrete-safetensors-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
  };
  static const Folder folder;
  return folder.path;
}

std::string file_bytes(uint64_t length, std::string_view header, std::string_view data = {}) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out.append(header).append(data);
}

std::string file_bytes(std::string_view header, std::string_view data = {}) {
  return file_bytes(header.size(), header, data);
}

Safetensors parse(std::string_view text) { return Safetensors::from_memory(std::as_bytes(std::span(text)), "test"); }

// The message of the refusal, "" when the input was accepted.
std::string refusal(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// The whole file that the writer makes.
std::string written(std::span<const SafetensorsEntry> entries, const TextMap& metadata) {
  const fs::path path = scratch() / "written.safetensors";
  save_safetensors(path, entries, metadata);
  return read_text(path);
}

// One tensor {"t": ...} with this many data bytes behind the header.
std::string one(std::string_view fields, size_t data_bytes) {
  return file_bytes("{\"t\":{" + std::string(fields) + "}}", std::string(data_bytes, 'x'));
}

struct Source {
  std::string name, dtype;
  std::vector<int64_t> shape;
};

// The tensors of golden/make_safetensors.py.
const std::vector<Source> kMixed = {{"b.weight", "F32", {2, 3}}, {"a.weight", "F32", {3}},
                                    {"half", "F16", {5}},        {"brain", "BF16", {1, 3}},
                                    {"double", "F64", {2}},      {"ids", "I64", {3}},
                                    {"int", "I32", {1}},         {"short", "I16", {3}},
                                    {"signed", "I8", {3}},       {"bytes", "U8", {7}},
                                    {"mask", "BOOL", {5}},       {"scalar", "F32", {}},
                                    {"empty", "F32", {0, 4}},    {"n\u00e4me \"quoted\"\\\n\x01", "F32", {1}}};

std::vector<std::string> mixed_values() {
  std::vector<std::string> values;
  for (const auto& source : kMixed) {
    int64_t count = safetensors_bits(source.dtype) / 8;
    for (const int64_t size : source.shape) count *= size;
    std::string bytes;
    for (int64_t i = 0; i < count; ++i) bytes += static_cast<char>((37 * i + 11) % (source.dtype == "BOOL" ? 2 : 256));
    values.push_back(bytes);
  }
  return values;
}

std::vector<SafetensorsEntry> mixed_entries(const std::vector<std::string>& values) {
  std::vector<SafetensorsEntry> entries;
  for (size_t i = 0; i < kMixed.size(); ++i)
    entries.push_back({kMixed[i].name, kMixed[i].dtype, kMixed[i].shape, std::as_bytes(std::span(values[i])).data()});
  return entries;
}

}  // namespace

TEST_CASE("the writer reproduces the published byte strings") {
  std::vector<float> values(6);
  std::iota(values.begin(), values.end(), 0.f);
  const auto* data = reinterpret_cast<const std::byte*>(values.data());
  const std::string data_text(reinterpret_cast<const char*>(data), 24);

  CHECK(written({}, {}) == file_bytes(8, "{}      "));
  CHECK(written({}, {{"framework", "pt"}}) == file_bytes(40, "{\"__metadata__\":{\"framework\":\"pt\"}}     "));
  const SafetensorsEntry dotted[] = {{"attn.0", "F32", {1, 2, 3}, data}};
  const std::string dotted_file = written(dotted, {});
  CHECK(dotted_file.size() == 96);
  CHECK(dotted_file ==
        file_bytes(64, "{\"attn.0\":{\"dtype\":\"F32\",\"shape\":[1,2,3],\"data_offsets\":[0,24]}}", data_text));
  const SafetensorsEntry plain[] = {{"attn0", "F32", {1, 1, 2, 3}, data}};
  CHECK(
      written(plain, {}) ==
      file_bytes(72, "{\"attn0\":{\"dtype\":\"F32\",\"shape\":[1,1,2,3],\"data_offsets\":[0,24]}}       ", data_text));
}

TEST_CASE("a file of every dtype equals the reference implementation's, byte for byte") {
  const auto values = mixed_values();
  const auto entries = mixed_entries(values);
  const std::string golden = read_text(fs::path(ACCRETE_SOURCE_DIR) / "tests/golden/mixed.safetensors");
  CHECK(written(entries, kPytorchMetadata) == golden);

  const Safetensors file = parse(golden);
  CHECK(file.metadata() == TextMap{{"format", "pt"}});
  REQUIRE(file.entries().size() == kMixed.size());
  for (size_t i = 0; i < kMixed.size(); ++i) {
    const SafetensorsEntry* entry = file.find(kMixed[i].name);
    REQUIRE(entry != nullptr);
    CHECK(entry->dtype == kMixed[i].dtype);
    CHECK(entry->shape == kMixed[i].shape);
    CHECK(std::string_view(reinterpret_cast<const char*>(entry->data), entry->bytes) == values[i]);
  }
  CHECK(file.find("absent") == nullptr);
}

TEST_CASE("values can be fetched one tensor at a time") {
  const auto values = mixed_values();
  const auto entries = mixed_entries(values);
  const fs::path path = scratch() / "fetched.safetensors";
  std::string staging;  // stands for the host copy of device memory
  save_safetensors(path, entries, [&](size_t i) -> const void* { return (staging = values[i]).data(); });
  CHECK(read_text(path) == read_text(fs::path(ACCRETE_SOURCE_DIR) / "tests/golden/mixed.safetensors"));
}

TEST_CASE("the reader accepts what the reference reader accepts") {
  CHECK(refusal(file_bytes(6, "{}\r \t\n")) == "");
  CHECK(refusal(file_bytes(6, "\t\n{}\r ")) == "");
  const std::string empty = file_bytes(60, "{\"test\":{\"dtype\":\"I32\",\"shape\":[2,0],\"data_offsets\":[0, 0]}}");
  CHECK(refusal(empty) == "");
  CHECK(parse(empty).entries()[0].bytes == 0);
  CHECK(refusal(one("\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]", 1)) == "");
  CHECK(refusal(one("\"data_offsets\":[0,4],\"dtype\":\"F32\",\"shape\":[]", 4)) == "");
  // Empty tensors between others share their offset; the order of names must not matter.
  CHECK(refusal(file_bytes(
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]},\"b\":{\"dtype\":\"U8\",\"shape\":[0],"
            "\"data_offsets\":[1,1]},\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
            "xyz")) == "");
}

TEST_CASE("hostile and broken files are refused with a reason") {
  const std::string good = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]";
  REQUIRE(refusal(one(good, 4)) == "");
  struct Case {
    std::string bytes, reason;
  };
  const Case cases[] = {
      {"", "expected at least 8 bytes; got 0"},
      {"1234567", "expected at least 8 bytes; got 7"},
      {file_bytes(uint64_t{1} << 63, "{}"), "the header length is 9223372036854775808"},
      {file_bytes(~uint64_t{0}, "{}"), "the header length is 18446744073709551615"},
      {file_bytes(100'000'001, "{}"), "expected at most 100000000"},
      {file_bytes(100'000'000, "{}"), "the file is truncated"},
      {file_bytes(3, "{}"), "the file is truncated"},
      {file_bytes(60, "{\"test\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0, 4]}}", "1234"),
       "need 16 bytes"},
      {file_bytes(0, ""), "not valid JSON"},
      {file_bytes("{"), "not valid JSON"},
      {file_bytes("[]"), "not a JSON object"},
      {file_bytes("null"), "not a JSON object"},
      {file_bytes("{}{}"), "not valid JSON"},
      {file_bytes("{\"\xff\":1}"), "not valid JSON"},
      {file_bytes("\xEF\xBB\xBF{}"), "byte order mark"},
      {file_bytes(std::string_view("{}\0 ", 4)), "NUL byte"},
      {file_bytes(std::string(1'000'000, '[')), "nested too deeply"},
      {file_bytes("{\"a\":" + std::string(1'000'000, '{')), "not valid JSON"},
      {file_bytes("{}", "x"), "the file has 1 data bytes"},
      {one(good, 5), "the file has 5 data bytes"},
      {one(good, 3), "truncated"},
      {one("\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]", 4), "unknown dtype \"F33\""},
      {one("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]", 4), "unknown dtype"},
      {one("\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]", 4), "dtype of tensor \"t\" is not a string"},
      {one("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]", 4), "shape of tensor \"t\" is not an array"},
      {one("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]", 4), "expected non-negative integers; got -1"},
      {one("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]", 4), "expected non-negative integers"},
      {one("\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]", 4), "expected non-negative integers"},
      {one("\"dtype\":\"F32\",\"shape\":[NaN],\"data_offsets\":[0,4]", 4), "not valid JSON"},
      {one("\"dtype\":\"F32\",\"shape\":[1e999],\"data_offsets\":[0,4]", 4), "not valid JSON"},
      {one("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]", 0), "overflows 64 bits"},
      {one("\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]", 0), "overflows 64 bits"},
      {one("\"dtype\":\"U8\",\"shape\":[18446744073709551615],\"data_offsets\":[0,0]", 0), "overflows 64 bits"},
      {one("\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]", 0), "expected non-negative"},
      {one("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]", 1), "whole bytes"},
      {one("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]", 4), "expected [begin, end]"},
      {one("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]", 4), "lies at [4, 0]"},
      {one("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]", 8), "no holes"},
      {one("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,18446744073709551615]", 4), "need 4 bytes"},
      {one("\"dtype\":\"F32\",\"shape\":[1]", 4), "expected an object with dtype, shape and data_offsets"},
      {one(good + ",\"extra\":1", 4), "expected an object with dtype, shape and data_offsets"},
      {one(good + ",\"dtype\":\"F32\"", 4), "key \"dtype\" appears twice"},
      {file_bytes("{\"t\":{" + good + "},\"t\":{" + good + "}}", "1234"), "key \"t\" appears twice"},
      {file_bytes("{\"t\":{" + good + "},\"\\u0074\":{" + good + "}}", "1234"), "key \"t\" appears twice"},
      {file_bytes("{\"a\":{" + good + "},\"b\":{" + good + "}}", "1234"), "no overlap"},
      {file_bytes("{\"a\":{" + good + "},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[3,7]}}", "1234567"),
       "no overlap"},
      {file_bytes("{\"__metadata__\":{\"a\":1}}"), "__metadata__ \"a\" is not a string"},
      {file_bytes("{\"__metadata__\":[]}"), "__metadata__ is not an object"},
  };
  for (const auto& [input, reason] : cases) {
    const auto& bytes = input;  // clang 14: a lambda (inside CAPTURE) cannot name a structured binding
    const std::string message = refusal(bytes);
    CAPTURE(printable(bytes, 200));
    CAPTURE(message);
    CHECK(contains(message, reason));
    CHECK(message.starts_with("[test] "));
    CHECK(message.size() < 500);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("a file cut at any byte is refused") {
  const std::string golden = read_text(fs::path(ACCRETE_SOURCE_DIR) / "tests/golden/mixed.safetensors");
  for (size_t length = 0; length < golden.size(); ++length) {
    CAPTURE(length);
    // A copy of exactly this length, so that the address sanitizer sees a read behind the end.
    const std::vector<char> cut(golden.begin(), golden.begin() + static_cast<std::ptrdiff_t>(length));
    CHECK(refusal({cut.data(), cut.size()}) != "");
  }
  CHECK(refusal(golden + "x") != "");
}

TEST_CASE("the writer refuses what it could not read back") {
  const float value = 1;
  const auto* data = reinterpret_cast<const std::byte*>(&value);
  const auto refused = [&](std::vector<SafetensorsEntry> entries, std::string_view reason) {
    try {
      safetensors_header(entries);
    } catch (const Error& error) {
      return contains(error.what(), reason);
    }
    return false;
  };
  CHECK(refused({{"a", "F32", {1}, data}, {"a", "F32", {1}, data}}, "two tensors are called \"a\""));
  CHECK(refused({{"a", "float", {1}, data}}, "unknown dtype"));
  CHECK(refused({{"a", "F32", {-1}, data}}, "negative size"));
  CHECK(refused({{"\xff", "F32", {1}, data}}, "not valid UTF-8"));
  CHECK(refused({{"__metadata__", "F32", {1}, data}}, "cannot be the name"));
}

TEST_CASE("shards are read through their index") {
  const fs::path folder = scratch() / "sharded";
  fs::create_directories(folder);
  const float values[] = {1, 2, 3};
  const auto* data = reinterpret_cast<const std::byte*>(values);
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  const SafetensorsEntry one_tensor[] = {{"w", "F32", {3}, data}}, other[] = {{"v", "F32", {2}, data}};
  save_safetensors(folder / first, one_tensor);
  save_safetensors(folder / second, other);
  const auto index = [&](const std::string& map) {
    write_text(folder / "model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":20},\"weight_map\":{" + map + "}}");
    try {
      const Safetensors file = Safetensors::open(folder);
      CHECK(file.entries().size() == 2);
      CHECK(std::memcmp(file.find("v")->data, values, 8) == 0);
      CHECK(std::memcmp(file.find("w")->data, values, 12) == 0);
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  const std::string w = "\"w\":\"" + first + "\"", v = "\"v\":\"" + second + "\"";
  CHECK(index(w + "," + v) == "");
  CHECK(contains(index(w + "," + v + ",\"u\":\"" + second + "\""), "missing in " + second + ": u"));
  CHECK(contains(index(w + ",\"x\":\"" + second + "\""), "not in the index but in " + second + ": v"));
  CHECK(contains(index(w + ",\"v\":\"../" + second + "\""), "expected a plain file name"));
  CHECK(contains(index(w + ",\"v\":\"/etc/passwd\""), "expected a plain file name"));
  CHECK(contains(index(w + ",\"v\":\"..\""), "expected a plain file name"));
  CHECK(contains(index(w + ",\"v\":\"absent.safetensors\""), "cannot open"));
  CHECK(contains(index(w + ",\"v\":2"), "is not a file name"));
  save_safetensors(folder / second, one_tensor);
  CHECK(contains(index(w + ",\"w2\":\"" + second + "\""), "missing in"));
  fs::remove(folder / "model.safetensors.index.json");
  CHECK_THROWS_WITH_AS(Safetensors::open(folder), doctest::Contains("has no model.safetensors"), Error);
  CHECK_THROWS_AS(Safetensors::open(folder / "absent.safetensors"), Error);
}

TEST_CASE("a full disk while saving is one clear error and the older file survives") {
  const fs::path folder = scratch() / "full";
  fs::create_directories(folder);
  const std::vector<std::byte> large(1 << 20);
  const SafetensorsEntry small_tensor[] = {{"w", "U8", {16}, large.data()}};
  const SafetensorsEntry large_tensor[] = {{"w", "U8", {1 << 20}, large.data()}};

  // Runs in a child, because limits and mounts are for life. 0: as it should be; 99: this machine cannot make such a
  // disk.
  const auto in_child = [&](auto&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      int result = 98;
      try {
        result = body();
      } catch (...) {
      }
      ::_exit(result);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 97;
  };
  const auto save_twice = [&](const fs::path& where, auto&& fill, const std::string& reason) {
    const fs::path path = where / "model.safetensors";
    save_safetensors(path, small_tensor);
    const std::string before = read_text(path);
    fill();
    try {
      save_safetensors(path, large_tensor);
      return 1;
    } catch (const Error& error) {
      if (!contains(error.what(), "cannot write " + path.string() + ": " + reason + "; the older file is unchanged"))
        return 2;
    }
    if (read_text(path) != before) return 3;
    return std::distance(fs::directory_iterator(where), {}) == 1 ? 0 : 4;  // the temporary file is gone
  };

  const auto limited = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const auto fill = [] {
      const rlimit limit{100'000, 100'000};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    };
    return save_twice(folder, fill, "File too large");
  });
  CHECK(limited == 0);

  const fs::path disk = folder / "disk";
  fs::create_directories(disk);
  const auto full = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=128k") != 0)
      return 99;
    return save_twice(
        disk, [] {}, "No space left on device");
  });
  if (full == 99)
    MESSAGE("no right to mount a small disk here; the size limit above stands for it");
  else
    CHECK(full == 0);
}

TEST_CASE("an atomic file without commit leaves nothing behind") {
  const fs::path folder = scratch() / "atomic";
  fs::create_directories(folder);
  { AtomicFile(folder / "a").write("half a file"); }
  CHECK(fs::is_empty(folder));
  write_text(folder / "a", "old");
  { AtomicFile(folder / "a").write("new"); }
  CHECK(read_text(folder / "a") == "old");
  write_text(folder / "a", "new");
  CHECK(read_text(folder / "a") == "new");
  CHECK_THROWS_WITH_AS(read_text(folder / "a", 2), doctest::Contains("too large; expected at most 2 bytes; got 3"),
                       Error);
  CHECK_THROWS_WITH_AS(write_text(folder / "none" / "a", "x"), doctest::Contains("No such file or directory"), Error);
  CHECK_THROWS_WITH_AS(MappedFile{folder}, doctest::Contains("not a regular file"), Error);
  write_text(folder / "empty", "");
  CHECK(MappedFile(folder / "empty").bytes().empty());
}

TEST_CASE("checksums give the published values") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;  // the same million in uneven pieces
  for (size_t sent = 0, size = 1; sent < 1'000'000;
       sent += size, size = std::min<size_t>(size % 211 + 1, 1'000'000 - sent))
    pieces.update(std::string(size, 'a'));
  CHECK(pieces.hex() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");

  CHECK(crc32c("123456789") == 0xE3069283);
  CHECK(crc32c("") == 0);
  CHECK(crc32("123456789") == 0xCBF43926);
  CHECK(crc32("56789", crc32("1234")) == 0xCBF43926);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AA);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62A8AB43);
  std::string rising(32, '\0');
  std::iota(rising.begin(), rising.end(), '\0');
  CHECK(crc32c(rising) == 0x46DD794E);
}
