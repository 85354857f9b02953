// Files as the project uses them: read by mapping, written so that a reader never sees half a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace accrete {

// A read-only memory-mapped file. Pages are read when touched, so opening a 10 GB file costs nothing.
// Throws Error when the path is missing, is no regular file or cannot be mapped. The bytes stay valid for the life of
// the object.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// The whole file as a string; for small files such as configurations. Refuses files above `limit` bytes.
std::string read_text(const std::filesystem::path& path, size_t limit = size_t{1} << 30);

// Writes a file completely or not at all: the bytes go to a temporary file in the same folder; commit() flushes it to
// the disk, renames it over `path` and flushes the folder. Without commit() (an exception, a full disk) the temporary
// file is removed and an older file at `path` is untouched. Every failure is an Error that names the path and the
// reason.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  [[noreturn]] void give_up(const char* what);

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

// A file that only grows (metrics, logs, event files). Each write() is handed to the system at once, so a killed
// process loses nothing that was written; a write that fails half-way (full disk) is undone and throws.
class AppendFile {
 public:
  // Creates the file or continues it. `keep`: bytes of an existing file to keep (all by default); less than that is cut
  // off.
  explicit AppendFile(const std::filesystem::path& path, uint64_t keep = ~uint64_t{0});
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void write(std::string_view text);
  uint64_t position() const { return position_; }  // bytes in the file
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t position_ = 0;
};

// AtomicFile in one call.
void write_text(const std::filesystem::path& path, std::string_view text);

// Flushes the entries of a folder (names made by create and rename) to the disk.
void sync_folder(const std::filesystem::path& folder);

}  // namespace accrete
