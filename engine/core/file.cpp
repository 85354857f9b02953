#include "engine/core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/core/error.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

// A descriptor that closes itself.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

// False with errno set when the system refuses.
bool write_all(int descriptor, const void* data, size_t bytes) {
  constexpr size_t kPiece = size_t{1} << 30;  // one call writes at most 2 GB on Linux
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor, next, std::min(bytes, kPiece));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return true;
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) fail("file", "cannot open ", path.string(), ": ", std::strerror(errno));
  struct stat info {};
  if (::fstat(file.value, &info) != 0) fail("file", "cannot examine ", path.string(), ": ", std::strerror(errno));
  check(S_ISREG(info.st_mode), "file", path.string(), " is not a regular file");
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;  // mmap refuses length 0; an empty view is the right answer
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
  if (mapped == MAP_FAILED) fail("file", "cannot map ", path.string(), " (", size_, " bytes): ", std::strerror(errno));
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::string read_text(const fs::path& path, size_t limit) {
  const MappedFile file(path);
  check(file.bytes().size() <= limit, "file", path.string(), " is too large; expected at most ", limit, " bytes; got ",
        file.bytes().size());
  return std::string(file.text());
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path) {
  static std::atomic<unsigned> counter{0};
  do {  // a name left behind by a killed process of the same id is skipped, not overwritten
    temporary_ = folder_of(path) / ("." + path.filename().string() + ".tmp-" + std::to_string(::getpid()) + "-" +
                                    std::to_string(counter++));
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && (errno == EEXIST || errno == EINTR));
  if (descriptor_ < 0) fail("file", "cannot create ", path.string(), ": ", std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::give_up(const char* what) {
  const int reason = errno;
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  ::unlink(temporary_.c_str());
  temporary_.clear();
  const bool existed = ::access(path_.c_str(), F_OK) == 0;
  fail("file", "cannot ", what, " ", path_.string(), ": ", std::strerror(reason),
       existed ? "; the older file is unchanged" : "; nothing was left behind");
}

void AtomicFile::write(const void* data, size_t bytes) {
  check(descriptor_ >= 0, "file", path_.string(), " is already closed");
  if (!write_all(descriptor_, data, bytes)) give_up("write");
}

void AtomicFile::commit() {
  check(descriptor_ >= 0, "file", path_.string(), " is already closed");
  if (::fsync(descriptor_) != 0) give_up("flush");
  if (::close(std::exchange(descriptor_, -1)) != 0) give_up("close");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) give_up("rename to");
  temporary_.clear();
  sync_folder(folder_of(path_));
}

AppendFile::AppendFile(const fs::path& path, uint64_t keep) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("file", "cannot open ", path.string(), ": ", std::strerror(errno));
  const off_t end = ::lseek(descriptor_, 0, SEEK_END);
  position_ = std::min<uint64_t>(keep, end < 0 ? 0 : static_cast<uint64_t>(end));
  if (end < 0 || ::ftruncate(descriptor_, static_cast<off_t>(position_)) != 0) {
    const int reason = errno;
    ::close(descriptor_);
    fail("file", "cannot continue ", path.string(), ": ", std::strerror(reason));
  }
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::write(std::string_view text) {
  if (!write_all(descriptor_, text.data(), text.size())) {
    const int reason = errno;
    const bool undone = ::ftruncate(descriptor_, static_cast<off_t>(position_)) == 0;
    fail("file", "cannot write ", path_.string(), ": ", std::strerror(reason),
         undone ? "" : "; its last line is incomplete");
  }
  position_ += text.size();
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void sync_folder(const fs::path& folder) {
  const Descriptor opened{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (opened.value < 0) fail("file", "cannot open folder ", folder.string(), ": ", std::strerror(errno));
  // Some file systems cannot flush folders and say EINVAL; they give no stronger promise to rely on.
  if (::fsync(opened.value) != 0 && errno != EINVAL)
    fail("file", "cannot flush folder ", folder.string(), ": ", std::strerror(errno));
}

}  // namespace accrete
