// Helpers for tests that use files and run the real programs.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace accrete {

// A folder that is removed with everything in it.
class TempFolder {
 public:
  TempFolder() {
    static std::atomic<int> counter{0};
    path_ = std::filesystem::temp_directory_path() /
            ("accrete-test-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline std::string file_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void put_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

struct RunResult {
  int exit_code = -1;  // 128 + n when signal n ended the program
  std::string out, err;
  // One line on stderr and nothing else: what every refusal must look like.
  bool one_line_error() const {
    return exit_code == 1 && out.empty() && err.find('\n') == err.size() - 1 && err.size() > 1;
  }
};

// Runs a shell command line in which $APPS is the folder of the programs. Standard input is empty. Only a command that
// names cuda sees a GPU, so that --device auto means the CPU on every machine.
inline RunResult run(const std::string& command) {
  const TempFolder folder;
  const std::string hide = command.find("cuda") == std::string::npos ? "export CUDA_VISIBLE_DEVICES=; " : "";
  const std::string line = hide + "APPS='" ACCRETE_BINARY_DIR "/apps'; exec >'" + (folder / "out").string() + "' 2>'" +
                           (folder / "err").string() + "' </dev/null; " + command;
  const int status = std::system(line.c_str());
  RunResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = file_bytes(folder / "out");
  result.err = file_bytes(folder / "err");
  return result;
}

}  // namespace accrete
