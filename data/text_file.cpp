#include "data/text_file.h"

#include <algorithm>

#include "data/unicode.h"
#include "engine/core/error.h"
#ifdef ACCRETE_WITH_ZLIB
#include <zlib.h>
#endif

namespace accrete {
namespace fs = std::filesystem;

namespace {

#ifdef ACCRETE_WITH_ZLIB
// All members of a gzip file, one after the other.
std::string unpack(std::string_view packed, size_t limit, const std::string& name) {
  constexpr size_t kPiece = size_t{1} << 20;
  z_stream stream{};
  check(inflateInit2(&stream, 16 + MAX_WBITS) == Z_OK, "text", "zlib could not start");
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&stream, inflateEnd);
  std::string out;
  size_t used = 0, filled = 0;
  while (true) {
    const size_t given = std::min(packed.size() - used, kPiece);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data() + used));
    stream.avail_in = static_cast<uInt>(given);
    if (out.size() - filled < kPiece) out.resize(std::max(out.size() * 2, filled + kPiece));
    const size_t space = std::min(out.size() - filled, size_t{1} << 30);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + filled);
    stream.avail_out = static_cast<uInt>(space);
    const int status = inflate(&stream, Z_NO_FLUSH);
    used += given - stream.avail_in;
    filled += space - stream.avail_out;
    check(filled <= limit, "text", name, " unpacks to more than ", limit, " bytes");
    if (status == Z_STREAM_END) {
      if (used == packed.size()) break;
      check(inflateReset(&stream) == Z_OK, "text", "zlib could not start again");
      continue;
    }
    check(status == Z_OK || (status == Z_BUF_ERROR && used < packed.size()), "text", name,
          status == Z_OK || status == Z_BUF_ERROR ? " is cut short: its gzip data ends too early"
                                                  : " is damaged: its gzip data does not unpack",
          " (at byte ", used, " of ", packed.size(), ")");
  }
  out.resize(filled);
  return out;
}
#else
std::string unpack(std::string_view, size_t, const std::string& name) {
  fail("text", name, " is packed with gzip, and this program was built without zlib; unpack it with gunzip first");
}
#endif

}  // namespace

bool gzip_supported() {
#ifdef ACCRETE_WITH_ZLIB
  return true;
#else
  return false;
#endif
}

InputFile::InputFile(const fs::path& path, size_t limit) : mapped_(std::make_unique<MappedFile>(path)) {
  bytes_ = mapped_->text();
  if (bytes_.starts_with("\x1f\x8b")) {
    unpacked_ = unpack(bytes_, limit, path.string());
    bytes_ = unpacked_;
    mapped_.reset();
  }
  check(bytes_.size() <= limit, "text", path.string(), " is too large; expected at most ", limit, " bytes; got ",
        bytes_.size());
}

TextFile::TextFile(const fs::path& path) : InputFile(path) {
  const std::string name = path.string();
  check(!bytes().empty(), "text", name, " is empty; expected text");
  if (const size_t nul = bytes().find('\0'); nul != std::string_view::npos)
    fail("text", name, " is not text: byte ", nul, " is NUL; expected UTF-8");
  invalid_ = count_invalid_utf8(bytes());
  check(invalid_ * 100 <= bytes().size(), "text", name, " is not UTF-8 text: ", invalid_, " of ", bytes().size(),
        " bytes do not belong to a character, the first at byte ", find_invalid_utf8(bytes()),
        "; convert it with iconv if it is text in another encoding");
}

fs::path plain_or_packed(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return path;
  fs::path packed = path;
  packed += ".gz";
  return fs::exists(packed, ignored) ? packed : fs::path();
}

TextCounts count_text(std::string_view text) {
  TextCounts counts;
  counts.bytes = static_cast<int64_t>(text.size());
  counts.lines = std::count(text.begin(), text.end(), '\n') + (!text.empty() && text.back() != '\n');
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = decode_utf8(text, at);
    const bool word = char_class(step.code) != CharClass::space;
    counts.words += word && !inside;
    inside = word;
    at += step.length;
  }
  return counts;
}

}  // namespace accrete
