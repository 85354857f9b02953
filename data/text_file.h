// Input files, plain or packed with gzip, with the checks that a text must pass.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "engine/core/file.h"

namespace accrete {

// False when the program was built without zlib and packed files are refused.
bool gzip_supported();

// The bytes of a file; gzip content is recognised by its first bytes, not by its name, and unpacked in memory.
class InputFile {
 public:
  // Throws when the file is missing, is not a regular file, is damaged gzip, unpacks to more than `limit` bytes, or is
  // gzip and the program was built without zlib.
  explicit InputFile(const std::filesystem::path& path, size_t limit = size_t{1} << 38);
  std::string_view bytes() const { return bytes_; }  // valid as long as the object lives

 private:
  std::unique_ptr<MappedFile> mapped_;
  std::string unpacked_;
  std::string_view bytes_;
};

// An InputFile that holds text: not empty, no NUL byte, at most one byte sequence in a hundred that is not UTF-8.
// Throws with the place of the first offending byte otherwise.
class TextFile : public InputFile {
 public:
  explicit TextFile(const std::filesystem::path& path);
  size_t invalid_sequences() const { return invalid_; }  // a tokenizer will replace them by U+FFFD

 private:
  size_t invalid_ = 0;
};

// The file itself, or the same name with ".gz" added, whichever exists; an empty path when neither does.
std::filesystem::path plain_or_packed(const std::filesystem::path& path);

// Words are separated by White_Space; lines end with '\n' (a last line without one counts). As `wc` and Python's split
// count them for ordinary text; these are the denominators of per-word perplexity.
struct TextCounts {
  int64_t bytes = 0, words = 0, lines = 0;
};
TextCounts count_text(std::string_view text);

}  // namespace accrete
