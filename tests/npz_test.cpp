// numpy's archives: the byte strings that numpy writes (vectors spec 13.3), round trips, hostile input. numpy 2 reads
// what the second test writes, zip64 too; that was checked by hand.
#include "engine/core/npz.h"

#include <doctest/doctest.h>

#include <cstring>
#include <numeric>

#include "engine/core/hash.h"
#include "tests/model_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

struct Arrays {
  std::vector<float> a = std::vector<float>(6);
  std::vector<int32_t> b = std::vector<int32_t>(5);
  std::vector<SafetensorsEntry> entries = {
      {"layer.a", "F32", {2, 3}}, {"b", "I32", {5}}, {"empty", "F16", {0, 4}}, {"scalar", "F32", {}}};
  Arrays() { std::iota(a.begin(), a.end(), 0.0f), std::iota(b.begin(), b.end(), 0); }
  const void* fetch(size_t i) const { return i == 1 ? static_cast<const void*>(b.data()) : a.data(); }
  void save(const fs::path& path, uint64_t large = 0xFFFFFFFFu) const {
    save_npz(
        path, entries, [this](size_t i) { return fetch(i); }, large);
  }
};

Npz parse(const std::string& bytes) {
  return Npz::from_memory({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}, "x");
}

void check_arrays(const std::vector<SafetensorsEntry>& found) {
  const Arrays want;
  REQUIRE(found.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(found[i].name == want.entries[i].name);
    CHECK(found[i].dtype == want.entries[i].dtype);
    CHECK(found[i].shape == want.entries[i].shape);
  }
  REQUIRE(found[0].bytes == 24);
  CHECK(std::memcmp(found[0].data, want.a.data(), 24) == 0);
  REQUIRE(found[1].bytes == 20);
  CHECK(std::memcmp(found[1].data, want.b.data(), 20) == 0);
  CHECK(found[2].bytes == 0);
  CHECK(found[3].bytes == 4);
}

// A member's bytes in an archive of one, with a right checksum.
std::string archive_of(const std::string& npy) {
  const auto u16 = [](uint32_t v) { return std::string{static_cast<char>(v), static_cast<char>(v >> 8)}; };
  const auto u32 = [&](uint64_t v) { return u16(v & 0xFFFF) + u16(static_cast<uint32_t>(v >> 16)); };
  const std::string name = "x.npy", sizes = u32(crc32(npy)) + u32(npy.size()) + u32(npy.size());
  const std::string common = u16(20) + u16(0) + u16(0) + u32(0) + sizes + u16(5) + u16(0);
  const std::string local = "PK\3\4" + common + name + npy;
  const std::string central = "PK\1\2" + u16(20) + common + u16(0) + u16(0) + u16(0) + u32(0) + u32(0) + name;
  return local + central + "PK\5\6" + u32(0) + u16(1) + u16(1) + u32(central.size()) + u32(local.size()) + u16(0);
}

std::string npy(const std::string& dictionary, const std::string& values, char major = 1) {
  std::string header = "\x93NUMPY";
  header += major;
  header += '\0';
  header += static_cast<char>(dictionary.size());
  header += '\0';
  if (major > 1) header += std::string(2, '\0');
  return header + dictionary + values;
}

}  // namespace

TEST_CASE("npy: the bytes that numpy writes") {
  const Arrays arrays;
  const std::string a =
      npy_header("F32", std::vector<int64_t>{2, 3}) + std::string(reinterpret_cast<const char*>(arrays.a.data()), 24);
  CHECK(a.size() == 152);
  CHECK(sha256_hex(a) == "47d9cb788e60cfff38faf2237400d94063bde1f42a0ad39297e02642caca6b56");
  const std::string b =
      npy_header("I32", std::vector<int64_t>{5}) + std::string(reinterpret_cast<const char*>(arrays.b.data()), 20);
  CHECK(sha256_hex(b) == "bdad22b13216ce0addbaa0baf0ba8b8451f87b11f2cba01509cd75d9d1d235aa");
}

TEST_CASE("npz: what is written is read, with zip64's records too") {
  const TempFolder folder;
  for (const uint64_t large : {uint64_t{0xFFFFFFFFu}, uint64_t{100}, uint64_t{160}, uint64_t{0}}) {
    CAPTURE(large);
    Arrays().save(folder / "x.npz", large);
    check_arrays(Npz::open(folder / "x.npz").entries());
  }
}

TEST_CASE("npz: headers as numpy and others write them") {
  const std::string four(4, '\1');
  const auto shape_of = [&](const std::string& dictionary, char major = 1) {
    const std::string bytes = archive_of(npy(dictionary, four, major));
    return parse(bytes).entries()[0].shape;
  };
  CHECK(shape_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }  \n") == std::vector<int64_t>{1});
  CHECK(shape_of("{\"shape\":(1, 1),\"descr\":\"<f4\",\"fortran_order\":False}") == std::vector<int64_t>{1, 1});
  CHECK(shape_of("{'descr': '|u1', 'fortran_order': True, 'shape': (4,)}", 2) == std::vector<int64_t>{4});
  CHECK(shape_of("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 3).empty());
}

TEST_CASE("npz: every refusal is one sentence, and no damage is read past") {
  const auto refused = [](const std::string& dictionary, const std::string& part, size_t bytes = 4) {
    const std::string file = archive_of(npy(dictionary, std::string(bytes, 'v')));
    check_sentence(error_of([&] { parse(file); }), {"x.npy", part});
  };
  refused("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "numbers of type |O");
  refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "quoted text");
  refused("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1)}", "Fortran order");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "has 1 bytes of values; expected 8", 1);
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "has 9 bytes of values; expected 8", 9);
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9)}", "larger than the file");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "no whole number");
  refused("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}", "twice");
  refused("{'descr': '<f4', 'shape': (1,)}", "is not {'descr'");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 'x'}", "unknown key");
  refused("{'descr': '<f4", "quoted text");
  check_sentence(error_of([] { parse(std::string(100, 'x')); }), {"no zip archive"});
  check_sentence(error_of([] { parse(""); }), {"no zip archive"});

  const TempFolder folder;
  for (const uint64_t large : {uint64_t{0xFFFFFFFFu}, uint64_t{0}}) {
    Arrays().save(folder / "x.npz", large);
    const std::string whole = file_bytes(folder / "x.npz");
    for (size_t n = 0; n < whole.size(); ++n) CHECK_THROWS_AS(parse(whole.substr(0, n)), Error);
    std::string wrong = whole;
    wrong[wrong.find("NUMPY") + 130] ^= 1;  // a value
    check_sentence(error_of([&] { parse(wrong); }), {"checksum"});
    for (size_t n = 0; n < whole.size(); ++n)  // any byte may be anything: tensors inside the file, or an Error
      for (const char flip : {'\x01', '\x80', '\xff'}) {
        std::string bent = whole;
        bent[n] = static_cast<char>(bent[n] ^ flip);
        try {
          const Npz npz = parse(bent);
          for (const SafetensorsEntry& e : npz.entries()) {
            const auto* begin = reinterpret_cast<const std::byte*>(bent.data());
            CHECK((e.bytes == 0 || (e.data >= begin && e.data + e.bytes <= begin + bent.size())));
          }
        } catch (const Error&) {
        }
      }
  }
}
