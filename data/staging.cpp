#include "data/staging.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/file.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = ".prepare-";  // and the process that writes

bool abandoned(const std::string& name) {
  if (!name.starts_with(kPrefix)) return false;
  pid_t process = 0;
  const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(begin, end, process);
  return error == std::errc() && stopped == end && process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
}

}  // namespace

Staging::Staging(const fs::path& out) : out_(out), folder_(out / (std::string(kPrefix) + std::to_string(::getpid()))) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) fail("prepare", "cannot create the folder ", out.string(), ": ", error.message());
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(out, error))
    if (abandoned(entry.path().filename().string())) old.push_back(entry.path());
  for (const fs::path& path : old) fs::remove_all(path, error);
}

Staging::~Staging() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void Staging::publish(const std::string& last) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().filename() != last) files.push_back(entry.path());
  std::error_code error;
  fs::remove(out_ / last, error);
  if (error) fail("prepare", "cannot replace ", (out_ / last).string(), ": ", error.message());
  sync_folder(out_);
  for (const fs::path& file : files) move(file);
  sync_folder(out_);
  move(folder_ / last);
  sync_folder(out_);
}

void Staging::move(const fs::path& file) {
  std::error_code error;
  fs::rename(file, out_ / file.filename(), error);
  if (error) fail("prepare", "cannot write ", (out_ / file.filename()).string(), ": ", error.message());
}

}  // namespace accrete
