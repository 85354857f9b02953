// The house rules that a machine can check: who may include whom, how long files are, what lies at the top level.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace fs = std::filesystem;

namespace {

const fs::path kRoot = ACCRETE_SOURCE_DIR;
const std::vector<std::string> kFolders = {"apps", "data", "engine", "kernels", "models", "tests", "training"};

// Arrows point down only. The first row whose prefix fits a file decides; `may` lists prefixes of what it may include.
struct Row {
  std::string from;
  std::vector<std::string> may;
};
const std::vector<Row> kTable = {
    {"kernels/", {"kernels/"}},
    // core names the contexts, number types and random words of the kernels and their memory; it starts none of them.
    {"engine/core/", {"engine/core/", "kernels/device.h", "kernels/runtime.h", "kernels/types.h", "kernels/philox.h"}},
    // The tape adds gradients itself and looks for NaN, with a few elementwise kernels.
    {"engine/autograd/", {"engine/autograd/", "engine/core/", "kernels/"}},
    {"engine/ops/", {"engine/ops/", "engine/autograd/", "engine/core/", "kernels/"}},
    {"engine/nn/", {"engine/nn/", "engine/ops/", "engine/autograd/", "engine/core/", "kernels/"}},
    {"engine/dist/", {"engine/dist/", "engine/core/"}},
    {"models/", {"models/", "engine/"}},
    {"data/", {"data/", "engine/core/"}},
    {"training/", {"training/", "engine/", "data/"}},  // a model only through engine/nn/model.h
    {"apps/", {"apps/", "training/", "models/", "data/", "engine/", "kernels/"}},
    {"tests/", {"tests/", "apps/", "training/", "models/", "data/", "engine/", "kernels/"}},
};

// Libraries, by the first letters of what is included in angle brackets, and the only files that may know them. All
// other angle brackets are the standard library, POSIX or the compiler's.
const std::vector<Row> kLibraries = {
    {"oneapi/", {"kernels/gemm_onednn.cpp"}},
    {"boost/", {"kernels/emulator.cpp"}},
    {"cuda", {"kernels/"}},
    {"cublas", {"kernels/"}},
    {"omp.h", {"kernels/"}},
    {"immintrin.h", {"kernels/"}},
    {"nlohmann/", {"engine/", "models/", "data/", "training/", "apps/", "tests/"}},
    {"zlib.h", {"data/", "tests/"}},
    {"jpeglib.h", {"data/jpeg.cpp"}},
    {"jerror.h", {"data/jpeg.cpp"}},
    {"stb/", {"data/stb_decode.cpp"}},
    {"CLI/", {"apps/"}},
    {"doctest/", {"tests/"}},
};

bool starts_with_any(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& p) { return text.rfind(p, 0) == 0; });
}

bool allowed(const std::string& file, const std::string& included) {
  for (const Row& row : kTable)
    if (file.rfind(row.from, 0) == 0) return starts_with_any(included, row.may);
  return false;
}

bool library_allowed(const std::string& file, const std::string& included) {
  for (const Row& row : kLibraries)
    if (included.rfind(row.from, 0) == 0) return starts_with_any(file, row.may);
  return true;
}

struct Source {
  std::string name;  // from the root, with forward slashes
  std::vector<std::string> lines;
};

std::vector<Source> sources(const std::set<std::string>& extensions) {
  std::vector<Source> out;
  for (const std::string& folder : kFolders)
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (!entry.is_regular_file() || !extensions.count(entry.path().extension().string())) continue;
      Source s;
      s.name = fs::relative(entry.path(), kRoot).generic_string();
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) s.lines.push_back(line);
      out.push_back(std::move(s));
    }
  return out;
}

// The kind ('<' or '"') and the name in an include line; an empty name for any other line.
std::pair<char, std::string> included_by(const std::string& line) {
  std::string text;
  for (const char c : line)
    if (c != ' ' && c != '\t') text += c;
  const std::string word = "#include";
  if (text.rfind(word, 0) != 0 || text.size() <= word.size()) return {};
  const char open = text[word.size()], close = open == '<' ? '>' : '"';
  const size_t end = text.find(close, word.size() + 1);
  if ((open != '<' && open != '"') || end == std::string::npos) return {};
  return {open, text.substr(word.size() + 1, end - word.size() - 1)};
}

// Does `name` fit a line of .gitignore ("/runs/", "build*")? A star stands for anything at the end.
bool ignored_by(std::string line, const std::string& name) {
  if (!line.empty() && line.front() == '/') line.erase(0, 1);
  if (!line.empty() && line.back() == '/') line.pop_back();
  if (line.empty() || line[0] == '#') return false;
  if (line.back() == '*') return name.rfind(line.substr(0, line.size() - 1), 0) == 0;
  return line == name;
}

}  // namespace

TEST_CASE("every include follows the table") {
  int checked = 0;
  for (const Source& file : sources({".h", ".cpp", ".cu"}))
    for (const std::string& line : file.lines) {
      const auto [kind, name] = included_by(line);
      if (name.empty()) continue;
      ++checked;
      if (kind == '<') {
        CHECK_MESSAGE(library_allowed(file.name, name), file.name << " may not include the library <" << name << ">");
        continue;
      }
      CHECK_MESSAGE(fs::exists(kRoot / name),
                    file.name << " includes \"" << name << "\", which is no path from the top of the repository");
      CHECK_MESSAGE(allowed(file.name, name), file.name << " may not include \"" << name << "\"");
    }
  CHECK(checked > 300);  // includes are still found
}

TEST_CASE("the table itself forbids what it should") {
  CHECK(!allowed("training/loop.cpp", "models/gpt.h"));
  CHECK(!allowed("kernels/gemm.h", "engine/core/tensor.h"));
  CHECK(!allowed("engine/core/tensor.h", "kernels/gemm.h"));
  CHECK(!allowed("engine/ops/linear.cpp", "engine/nn/params.h"));
  CHECK(!allowed("data/bpe.h", "engine/ops/ops.h"));
  CHECK(!allowed("models/gpt.h", "data/tokenizer.h"));
  CHECK(!allowed("apps/train_gpt_main.cpp", "tests/reference.h"));
  CHECK(allowed("apps/train_gpt_main.cpp", "models/gpt.h"));
  CHECK(!library_allowed("engine/core/tensor.h", "cuda_runtime.h"));
  CHECK(library_allowed("engine/core/tensor.h", "vector"));
}

TEST_CASE("headers are guarded and open no namespaces") {
  for (const Source& file : sources({".h"})) {
    const auto holds = [&](const std::string& text) {
      return std::any_of(file.lines.begin(), file.lines.end(), [&](const auto& l) { return l.rfind(text, 0) == 0; });
    };
    CHECK_MESSAGE(holds("#pragma once"), file.name);
    CHECK_MESSAGE(!holds("using namespace"), file.name);
  }
}

TEST_CASE("no file holds two ideas: at most 600 lines") {
  for (const Source& file : sources({".h", ".cpp", ".cu", ".py", ".sh", ".md", ".txt"}))
    CHECK_MESSAGE(file.lines.size() <= 600, file.name << " has " << file.lines.size() << " lines");
}

TEST_CASE("every folder says what lives in it") {
  for (const std::string& folder : kFolders) {
    const fs::path readme = kRoot / folder / "README.md";
    CHECK_MESSAGE(fs::exists(readme), folder << " has no README.md");
    if (fs::exists(readme)) CHECK_MESSAGE(fs::file_size(readme) > 200, folder << "/README.md says nothing");
  }
  CHECK(fs::exists(kRoot / "README.md"));
}

TEST_CASE("the top level holds what was agreed and nothing else") {
  std::set<std::string> agreed = {"CMakeLists.txt", "README.md",  "LICENSE",      ".ci",
                                  ".git",           ".gitignore", ".clang-format"};
  agreed.insert(kFolders.begin(), kFolders.end());
  // What .gitignore names (build folders, runs) is nobody's business.
  std::vector<std::string> ignored;
  std::ifstream in(kRoot / ".gitignore");
  for (std::string line; std::getline(in, line);) ignored.push_back(line);
  for (const auto& entry : fs::directory_iterator(kRoot)) {
    const std::string name = entry.path().filename().string();
    const bool skip =
        std::any_of(ignored.begin(), ignored.end(), [&](const std::string& line) { return ignored_by(line, name); });
    CHECK_MESSAGE((skip || agreed.count(name) == 1), "unexpected at the top level: " << name);
  }
}
