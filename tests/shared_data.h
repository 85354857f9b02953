// Real data sets for tests. They are not part of the repository: the folder named by the environment variable
// ACCRETE_DATA, else shared/data beside the repository, plain or packed (.gz, .tar, .tar.gz); tests skip, and say so,
// without it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include "data/text_file.h"
#include "tests/program_testing.h"

namespace accrete {

inline std::filesystem::path shared_root() {
  const char* folder = std::getenv("ACCRETE_DATA");
  return folder ? std::filesystem::path(folder) : std::filesystem::path(ACCRETE_SOURCE_DIR) / ".." / "shared" / "data";
}

// "text/tinyshakespeare/input.txt" -> where it lies, or an empty path (and a line that says what is skipped).
inline std::filesystem::path shared_file(const std::string& name) {
  namespace fs = std::filesystem;
  const fs::path found = plain_or_packed(shared_root() / name);
  if (found.empty()) std::cout << "skipped: " << name << " is not here (set ACCRETE_DATA)" << std::endl;
  if (found.extension() == ".gz" && !gzip_supported()) {
    std::cout << "skipped: " << name << " is packed and this build has no zlib" << std::endl;
    return {};
  }
  return found;
}

// "images/images-odd" -> the folder of that name, or what its archive holds, unpacked for as long as `unpacked` lives;
// an empty path (and a line that says what is skipped) when neither is here.
inline std::filesystem::path shared_folder(const std::string& name, const TempFolder& unpacked) {
  namespace fs = std::filesystem;
  const fs::path folder = shared_root() / name;
  if (fs::is_directory(folder)) return folder;
  for (const char* ending : {".tar", ".tar.gz"}) {
    const fs::path archive = folder.string() + ending;
    if (!fs::exists(archive)) continue;
    const std::string command = "tar -xf '" + archive.string() + "' -C '" + unpacked.path().string() + "'";
    if (std::system(command.c_str()) == 0) return unpacked / folder.filename().string();
  }
  std::cout << "skipped: " << name << " is not here (set ACCRETE_DATA)" << std::endl;
  return {};
}

}  // namespace accrete
