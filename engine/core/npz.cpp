#include "engine/core/npz.h"

#include <array>
#include <charconv>
#include <cstring>
#include <set>

#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"

namespace accrete {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                   kLocator64 = 0x07064b50;
constexpr uint16_t kVersion = 20, kVersion64 = 45,
                   kDate = 0x0021;       // 1 January 1980, so that equal weights are equal bytes
constexpr uint32_t kFull = 0xFFFFFFFFu;  // "the number stands in the zip64 field"

struct Code {
  std::string_view descr, dtype;
};
constexpr std::array<Code, 9> kCodes = {{{"<f8", "F64"},
                                         {"<f4", "F32"},
                                         {"<f2", "F16"},
                                         {"<i8", "I64"},
                                         {"<i4", "I32"},
                                         {"<i2", "I16"},
                                         {"|i1", "I8"},
                                         {"|u1", "U8"},
                                         {"|b1", "BOOL"}}};

template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
}

// A part of the file that is read from front to back; Error where it ends too early.
class Reader {
 public:
  Reader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}
  template <class T>
  T number() {
    const std::string_view raw = text(sizeof(T));
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) value |= uint64_t{static_cast<uint8_t>(raw[i])} << (8 * i);
    return static_cast<T>(value);
  }
  std::string_view text(uint64_t count) {
    check(count <= bytes_.size(), where_, "the archive is cut short or its numbers do not fit");
    const std::string_view part = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return part;
  }
  size_t left() const { return bytes_.size(); }

 private:
  std::string_view bytes_;
  const std::string& where_;
};

Reader part(std::string_view bytes, uint64_t from, const std::string& where) {
  check(from <= bytes.size(), where, "the archive is cut short or its numbers do not fit");
  return {bytes.substr(from), where};
}

struct Directory {
  uint64_t count = 0, offset = 0;
};

// The record at the end of a zip file, which a comment of up to 65,535 bytes may follow.
Directory find_directory(std::string_view bytes, const std::string& where) {
  constexpr size_t kSize = 22;
  const size_t last = bytes.size() < kSize ? 0 : bytes.size() - kSize, first = last > 0xFFFF ? last - 0xFFFF : 0;
  for (size_t at = last + 1; bytes.size() >= kSize && at-- > first;) {
    Reader r = part(bytes, at, where);
    if (r.number<uint32_t>() != kEnd) continue;
    r.text(6);
    Directory d;
    d.count = r.number<uint16_t>();
    r.text(4);
    d.offset = r.number<uint32_t>();
    if (r.number<uint16_t>() != r.left()) continue;  // the mark stood in a comment
    if ((d.count != 0xFFFF && d.offset != kFull) || at < 20) return d;
    Reader locator = part(bytes, at - 20, where);
    if (locator.number<uint32_t>() != kLocator64) return d;
    locator.text(4);
    Reader big = part(bytes, locator.number<uint64_t>(), where);
    check(big.number<uint32_t>() == kEnd64, where, "the archive's zip64 record is not where it should be");
    big.text(28);
    d.count = big.number<uint64_t>();
    big.text(8);
    d.offset = big.number<uint64_t>();
    return d;
  }
  fail(where, "no zip archive; expected a file of numpy.savez");
}

struct Member {
  std::string name;
  uint16_t flags = 0, method = 0;
  uint32_t crc = 0;
  uint64_t packed = 0, size = 0, offset = 0;
};

Member read_member(Reader& r, const std::string& where) {
  Member m;
  check(r.number<uint32_t>() == kCentral, where, "the archive's directory is damaged");
  r.text(4);
  m.flags = r.number<uint16_t>();
  m.method = r.number<uint16_t>();
  r.text(4);
  m.crc = r.number<uint32_t>();
  m.packed = r.number<uint32_t>();
  m.size = r.number<uint32_t>();
  const auto name = r.number<uint16_t>(), extra = r.number<uint16_t>(), comment = r.number<uint16_t>();
  r.text(8);
  m.offset = r.number<uint32_t>();
  m.name = r.text(name);
  Reader fields(r.text(extra), where);
  r.text(comment);
  while (fields.left() >= 4) {
    const auto id = fields.number<uint16_t>(), bytes = fields.number<uint16_t>();
    Reader field(fields.text(bytes), where);
    if (id != 1) continue;
    for (uint64_t* number : {&m.size, &m.packed, &m.offset})
      if (*number == kFull) *number = field.number<uint64_t>();
  }
  return m;
}

// The bytes of a stored member.
std::string_view contents(std::string_view bytes, const Member& m, const std::string& where) {
  check((m.flags & 1) == 0 && m.method == 0 && m.packed == m.size, where,
        "is compressed or encrypted; expected a file of numpy.savez, not of savez_compressed");
  Reader local = part(bytes, m.offset, where);
  check(local.number<uint32_t>() == kLocal, where, "does not begin where the directory says");
  local.text(22);
  const auto name = local.number<uint16_t>(), extra = local.number<uint16_t>();
  local.text(uint64_t{name} + extra);
  const std::string_view content = local.text(m.size);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // no fuzzer guesses a checksum
  check(crc32(content) == m.crc, where, "the checksum is wrong: the file is damaged");
#endif
  return content;
}

// The dictionary of an npy: its three keys in any order, nothing else.
class Dictionary {
 public:
  Dictionary(std::string_view text, const std::string& where) : rest_(text), where_(where) {
    std::set<std::string, std::less<>> seen;
    expect('{');
    while (!next('}')) {
      const std::string key = quoted();
      check(seen.insert(key).second, where_, "the array's header has \"", printable(key), "\" twice");
      expect(':');
      if (key == "descr")
        descr = quoted();
      else if (key == "fortran_order")
        fortran = truth();
      else if (key == "shape")
        read_shape();
      else
        fail(where_, "the array's header has an unknown key \"", printable(key), "\"");
      if (!next(',')) {
        expect('}');
        break;
      }
    }
    blanks();
    check(rest_.empty() && seen.size() == 3, where_,
          "the array's header is not {'descr': .., 'fortran_order': .., 'shape': ..}");
  }

  std::string descr;
  bool fortran = false;
  std::vector<int64_t> shape;

 private:
  void blanks() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\n')) rest_.remove_prefix(1);
  }
  bool next(char c) {
    blanks();
    if (rest_.empty() || rest_[0] != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char c) { check(next(c), where_, "the array's header lacks a '", c, "'"); }
  std::string quoted() {
    blanks();
    const char quote = rest_.empty() ? '\0' : rest_[0];
    const size_t end = quote == '\'' || quote == '"' ? rest_.find(quote, 1) : std::string_view::npos;
    check(end != std::string_view::npos, where_, "the array's header lacks a quoted text; hint: arrays of objects and ",
          "records are not read");
    const std::string text(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return text;
  }
  bool truth() {
    blanks();
    for (const std::string_view word : {"True", "False"})
      if (rest_.starts_with(word)) {
        rest_.remove_prefix(word.size());
        return word == "True";
      }
    fail(where_, "the array's header does not say whether its order is Fortran's");
  }
  void read_shape() {
    expect('(');
    while (!next(')')) {
      blanks();
      int64_t size = -1;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      check(error == std::errc() && size >= 0, where_, "a size of the array is no whole number");
      rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
      shape.push_back(size);
      check(shape.size() <= 32, where_, "the array has more than 32 axes");
      if (!next(',')) {
        expect(')');
        break;
      }
    }
  }

  std::string_view rest_;
  const std::string& where_;
};

SafetensorsEntry read_array(std::string_view content, const std::string& name, const std::string& where) {
  Reader r(content, where);
  check(content.starts_with("\x93NUMPY"), where, "is no array of numpy");
  r.text(6);
  const auto major = r.number<uint8_t>(), minor = r.number<uint8_t>();
  check(major >= 1 && major <= 3 && minor == 0, where, "version ", int{major}, ".", int{minor},
        " of the array's header is not known; expected 1.0 to 3.0");
  const uint32_t length = major == 1 ? r.number<uint16_t>() : r.number<uint32_t>();
  const Dictionary header(r.text(length), where);
  SafetensorsEntry e{.name = name, .shape = header.shape};
  for (const Code& code : kCodes)
    if (header.descr == code.descr) e.dtype = code.dtype;
  check(!e.dtype.empty(), where, "numbers of type ", printable(header.descr),
        " are not read; expected <f8, <f4, <f2 or whole numbers");
  check(!header.fortran || e.shape.size() < 2, where,
        "is in Fortran order; expected C order (numpy.ascontiguousarray)");
  const auto width = static_cast<uint64_t>(safetensors_bits(e.dtype) / 8);
  uint64_t bytes = width;
  for (const int64_t size : e.shape) {
    check(size == 0 || bytes <= content.size() / static_cast<uint64_t>(size), where,
          "the array is larger than the file");
    bytes *= static_cast<uint64_t>(size);
  }
  check(bytes == r.left(), where, "has ", r.left(), " bytes of values; expected ", bytes, " for its shape");
  const std::string_view values = r.text(bytes);
  e.data = reinterpret_cast<const std::byte*>(values.data());
  e.bytes = values.size();
  return e;
}

}  // namespace

Npz Npz::open(const std::filesystem::path& path) {
  const auto file = std::make_shared<const MappedFile>(path);
  Npz npz = from_memory(file->bytes(), path.string());
  npz.file_ = file;
  return npz;
}

Npz Npz::from_memory(std::span<const std::byte> span, const std::string& where) {
  const std::string_view bytes(reinterpret_cast<const char*>(span.data()), span.size());
  const Directory directory = find_directory(bytes, where);
  Reader list = part(bytes, directory.offset, where);
  Npz npz;
  std::set<std::string> names;
  for (uint64_t i = 0; i < directory.count; ++i) {
    const Member m = read_member(list, where);
    const std::string inside = where + ": " + printable(m.name);
    check(m.name.ends_with(".npy"), inside, "is no array; expected names that end with .npy");
    const std::string name = m.name.substr(0, m.name.size() - 4);
    check(names.insert(name).second, inside, "stands in the archive twice");
    npz.entries_.push_back(read_array(contents(bytes, m, inside), name, inside));
  }
  return npz;
}

std::string npy_header(std::string_view dtype, std::span<const int64_t> shape) {
  std::string_view descr;
  for (const Code& code : kCodes)
    if (dtype == code.dtype) descr = code.descr;
  check(!descr.empty(), "npz", "numpy has no numbers of type ", dtype, "; expected f32 or f16");
  std::string text = "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  text += shape.size() == 1 ? ",), }" : "), }";
  const size_t whole = (10 + text.size() + 1 + 63) / 64 * 64;
  text.resize(whole - 11, ' ');
  std::string header = "\x93NUMPY";
  header += '\x01';
  header += '\0';
  put(header, static_cast<uint16_t>(text.size() + 1));
  return header + text + "\n";
}

void save_npz(const std::filesystem::path& path, std::span<const SafetensorsEntry> entries,
              const std::function<const void*(size_t)>& fetch, uint64_t large) {
  AtomicFile file(path);
  std::string directory;
  uint64_t offset = 0;
  const auto number = [&](uint64_t value) { return value >= large ? kFull : static_cast<uint32_t>(value); };
  for (size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry& e = entries[i];
    const std::string header = npy_header(e.dtype, e.shape), name = e.name + ".npy";
    check(name.size() <= 0xFFFF, "npz", "a name of ", name.size(), " bytes; expected at most 65535");
    uint64_t bytes = static_cast<uint64_t>(safetensors_bits(e.dtype) / 8);
    for (const int64_t size : e.shape) bytes *= static_cast<uint64_t>(size);
    const std::string_view values(static_cast<const char*>(fetch(i)), bytes);
    const uint64_t size = header.size() + bytes;
    const uint32_t crc = crc32(values, crc32(header));
    std::string extra, central;  // zip64: sizes in the local header; what is too large in the directory
    if (size >= large) {
      put(extra, uint16_t{1}), put(extra, uint16_t{16}), put(extra, size), put(extra, size);
      put(central, size), put(central, size);
    }
    if (offset >= large) put(central, offset);
    const std::string fields = [&] {
      std::string text;
      if (!central.empty()) put(text, uint16_t{1}), put(text, static_cast<uint16_t>(central.size()));
      return text + central;
    }();
    const auto common = [&](uint16_t more) {  // what both headers say
      std::string text;
      put(text, fields.empty() ? kVersion : kVersion64);
      put(text, uint16_t{0x0800}), put(text, uint16_t{0}), put(text, uint16_t{0}), put(text, kDate);  // names are UTF-8
      put(text, crc), put(text, number(size)), put(text, number(size));
      put(text, static_cast<uint16_t>(name.size())), put(text, more);
      return text;
    };
    std::string local;
    put(local, kLocal);
    local += common(static_cast<uint16_t>(extra.size())) + name + extra;
    file.write(local);
    file.write(header);
    file.write(values);
    put(directory, kCentral), put(directory, kVersion64);
    directory += common(static_cast<uint16_t>(fields.size()));
    put(directory, uint16_t{0}), put(directory, uint16_t{0}), put(directory, uint16_t{0}), put(directory, uint32_t{0});
    put(directory, number(offset));
    directory += name + fields;
    offset += local.size() + size;
  }
  file.write(directory);
  const auto count = static_cast<uint64_t>(entries.size()), length = static_cast<uint64_t>(directory.size());
  std::string end;
  const bool many = count >= 0xFFFF || offset >= large || length >= large;
  if (many) {
    put(end, kEnd64), put(end, uint64_t{44}), put(end, kVersion64), put(end, kVersion64), put(end, uint32_t{0});
    put(end, uint32_t{0}), put(end, count), put(end, count), put(end, length), put(end, offset);
    put(end, kLocator64), put(end, uint32_t{0}), put(end, offset + length), put(end, uint32_t{1});
  }
  const auto short_count = static_cast<uint16_t>(many ? 0xFFFF : count);
  put(end, kEnd), put(end, uint32_t{0}), put(end, short_count), put(end, short_count);
  put(end, many ? kFull : static_cast<uint32_t>(length)), put(end, many ? kFull : static_cast<uint32_t>(offset));
  put(end, uint16_t{0});
  file.write(end);
  file.commit();
}

}  // namespace accrete
