// Real data sets for tests. They are not part of the repository: the folder named by the environment variable
// ACCRETE_DATA, else shared/data beside the repository, plain or packed as .gz; tests skip, and say so, without it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include "data/text_file.h"

namespace accrete {

// "text/tinyshakespeare/input.txt" -> where it lies, or an empty path (and a line that says what is skipped).
inline std::filesystem::path shared_file(const std::string& name) {
  namespace fs = std::filesystem;
  const char* folder = std::getenv("ACCRETE_DATA");
  const fs::path root = folder ? fs::path(folder) : fs::path(ACCRETE_SOURCE_DIR) / ".." / "shared" / "data";
  const fs::path found = plain_or_packed(root / name);
  if (found.empty()) std::cout << "skipped: " << name << " is not here (set ACCRETE_DATA)" << std::endl;
  if (found.extension() == ".gz" && !gzip_supported()) {
    std::cout << "skipped: " << name << " is packed and this build has no zlib" << std::endl;
    return {};
  }
  return found;
}

}  // namespace accrete
