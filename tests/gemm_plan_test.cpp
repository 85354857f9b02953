// Plans of matrix products, the part that needs no GPU: which epilogue the library may do, how a row-major product is
// said in columns, keys, and the plan file with everything that can be wrong with a file.
#include "kernels/gemm_plan.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "kernels/gemm_plan_file.h"

using namespace accrete;
using namespace accrete::kernels;
namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "accrete_plans_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const char* name) const { return (path / name).string(); }
};

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}
void write_all(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

PlanRecord some_record(uint64_t seed) {
  std::mt19937_64 random(seed);
  PlanRecord r;
  r.fused = random() % 4 != 0;
  r.timed = random() % 2 == 0;
  r.microseconds = static_cast<double>(random() % 100000) / 10;
  r.workspace = random() % (uint64_t{64} << 20);
  for (uint64_t& word : r.algorithm) word = random();
  return r;
}

GemmKey some_key() {
  GemmKey key;
  key.shape = complete({.M = 65536, .N = 3072, .K = 768, .trans_b = true});
  key.in = key.out = GemmType::bf16;
  key.epilogue = LibraryEpilogue::gelu_aux_bias;
  key.workspace = 33 << 20;
  return key;
}

// Element (r, c) of a column-major matrix.
double at(const std::vector<double>& v, const ColumnMajor& m, int64_t batch, int64_t r, int64_t c) {
  return v.at(static_cast<size_t>(batch * m.batch_stride + c * m.ld + r));
}

// The column-major product that the library is asked for gives the row-major result in the same memory.
void check_columns(const GemmShape& given) {
  const GemmShape s = complete(given);
  const ColumnProduct p = in_columns(s);
  const auto filled = [](int64_t n, int64_t seed) {
    std::vector<double> v(static_cast<size_t>(n));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>((static_cast<int64_t>(i) * 37 + seed) % 19 - 9);
    return v;
  };
  const std::vector<double> A = filled(s.batch * s.batch_a, 3), B = filled(s.batch * s.batch_b, 11);
  std::vector<double> rows(static_cast<size_t>(s.batch * s.batch_c), -1), columns = rows;
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t i = 0; i < s.M; ++i)
      for (int64_t j = 0; j < s.N; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < s.K; ++k)
          sum += A[static_cast<size_t>(n * s.batch_a + (s.trans_a ? k * s.lda + i : i * s.lda + k))] *
                 B[static_cast<size_t>(n * s.batch_b + (s.trans_b ? j * s.ldb + k : k * s.ldb + j))];
        rows[static_cast<size_t>(n * s.batch_c + i * s.ldc + j)] = sum;
      }
    const int64_t inner = p.trans_first ? p.first.rows : p.first.cols;
    CHECK(inner == (p.trans_second ? p.second.cols : p.second.rows));
    CHECK(p.result.rows == (p.trans_first ? p.first.cols : p.first.rows));
    CHECK(p.result.cols == (p.trans_second ? p.second.rows : p.second.cols));
    for (const ColumnMajor& m : {p.first, p.second, p.result}) CHECK(m.ld >= m.rows);
    for (int64_t c = 0; c < p.result.cols; ++c)
      for (int64_t r = 0; r < p.result.rows; ++r) {
        double sum = 0;
        for (int64_t k = 0; k < inner; ++k)
          sum += (p.trans_first ? at(B, p.first, n, k, r) : at(B, p.first, n, r, k)) *
                 (p.trans_second ? at(A, p.second, n, c, k) : at(A, p.second, n, k, c));
        columns[static_cast<size_t>(n * p.result.batch_stride + c * p.result.ld + r)] = sum;
      }
  }
  CHECK(rows == columns);
  // The last element that was written is the last one of the extent.
  size_t last = 0;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i] != -1) last = i;
  if (s.M * s.N * s.batch > 0 && rows[last] != -1) CHECK(static_cast<int64_t>(last) < extent_of_c(s));
}

}  // namespace

TEST_CASE("a row-major product, said in columns") {
  for (int flags = 0; flags < 4; ++flags) {
    GemmShape s{.M = 3, .N = 5, .K = 7, .trans_a = (flags & 1) != 0, .trans_b = (flags & 2) != 0};
    check_columns(s);
    s.lda = 9, s.ldb = 11, s.ldc = 6;
    check_columns(s);
    s.batch = 3;
    check_columns(s);
    s.batch_a = 100, s.batch_b = 120, s.batch_c = 40;
    check_columns(s);
    CHECK(extent_of_c(complete(s)) == 2 * 40 + 2 * 6 + 5);
  }
  CHECK(extent_of_c(complete({.M = 0, .N = 5, .K = 7})) == 0);
}

TEST_CASE("which epilogues the library does") {
  using E = LibraryEpilogue;
  const GemmShape s = complete({.M = 6, .N = 16, .K = 5});
  const auto of = [&](Wish w, GemmType out = GemmType::bf16) { return library_epilogue(w, s, out); };
  CHECK(of({}) == E::none);
  CHECK(of({.bias = true}) == E::bias);
  CHECK(of({.then = Then::gelu}) == E::gelu);
  CHECK(of({.bias = true, .then = Then::gelu}) == E::gelu_bias);
  CHECK(of({.aux = true, .then = Then::gelu}) == E::gelu_aux);
  CHECK(of({.bias = true, .aux = true, .then = Then::gelu}) == E::gelu_aux_bias);
  CHECK(of({.aux = true, .then = Then::gelu_gradient}) == E::gelu_gradient);
  CHECK(of({.bias_gradient = true}, GemmType::f32) == E::bias_gradient);
  // What it cannot: the exact gelu, a bias gradient in a narrow type or beside something else.
  CHECK(!of({.bias = true, .aux = true, .erf = true, .then = Then::gelu}));
  CHECK(!of({.aux = true, .erf = true, .then = Then::gelu_gradient}));
  CHECK(!of({.bias = true, .aux = true, .then = Then::gelu_gradient}));
  CHECK(!of({.bias_gradient = true}));
  CHECK(!of({.bias = true, .bias_gradient = true}, GemmType::f32));
  CHECK(!of({.aux = true, .bias_gradient = true, .then = Then::gelu_gradient}, GemmType::f32));
  // Shapes: aux needs rows of a multiple of 8, batches and empty sums have no gelu.
  const Wish aux{.aux = true, .then = Then::gelu};
  CHECK(!library_epilogue(aux, complete({.M = 6, .N = 12, .K = 5}), GemmType::bf16));
  CHECK(library_epilogue(aux, complete({.M = 6, .N = 12, .K = 5, .ldc = 16}), GemmType::bf16) == E::gelu_aux);
  CHECK(!library_epilogue(aux, complete({.M = 6, .N = 16, .K = 5, .batch = 2}), GemmType::bf16));
  CHECK(library_epilogue({.bias = true}, complete({.M = 6, .N = 16, .K = 5, .batch = 2}), GemmType::bf16) == E::bias);
  for (const Wish& w : {Wish{}, Wish{.bias = true}, aux, Wish{.bias_gradient = true}})
    CHECK(!library_epilogue(w, complete({.M = 6, .N = 16, .K = 0}), GemmType::f32));
}

TEST_CASE("scratch of an epilogue, in f32 values") {
  using E = LibraryEpilogue;
  GemmShape s = complete({.M = 6, .N = 17, .K = 5});
  CHECK(epilogue_scratch(E::gelu_aux_bias, s, GemmType::bf16) == 9);  // 17 values of two bytes
  CHECK(epilogue_scratch(E::bias, s, GemmType::f32) == 0);
  CHECK(epilogue_scratch(E::bias_gradient, s, GemmType::f32) == 0);
  CHECK(epilogue_scratch(E::gelu_gradient, s, GemmType::bf16) == 0);
  s.accumulate = true;
  CHECK(epilogue_scratch(E::bias_gradient, s, GemmType::f32) == 6);
}

TEST_CASE("alignment of a pointer") {
  CHECK(alignment_of(nullptr) == 256);
  const auto address = [](uintptr_t a) { return alignment_of(reinterpret_cast<const void*>(a)); };
  CHECK(address(4096) == 256);
  CHECK(address(4096 + 128) == 128);
  CHECK(address(4096 + 48) == 16);
  CHECK(address(4096 + 2) == 2);
}

TEST_CASE("everything that decides about a plan changes its key and its line") {
  std::vector<GemmKey> keys(1, some_key());
  const auto changed = [&](auto change) {
    GemmKey key = some_key();
    change(key);
    keys.push_back(key);
  };
  changed([](GemmKey& k) { k.shape.M = 65535; });
  changed([](GemmKey& k) { k.shape.N = 3071; });
  changed([](GemmKey& k) { k.shape.K = 767; });
  changed([](GemmKey& k) { k.shape.trans_a = true; });
  changed([](GemmKey& k) { k.shape.trans_b = false; });
  changed([](GemmKey& k) { k.shape.accumulate = true; });
  changed([](GemmKey& k) { k.shape.lda = 769; });
  changed([](GemmKey& k) { k.shape.ldb = 769; });
  changed([](GemmKey& k) { k.shape.ldc = 3073; });
  changed([](GemmKey& k) { k.shape.batch = 2; });
  changed([](GemmKey& k) { k.shape.batch = 2, k.shape.batch_a += 1; });
  changed([](GemmKey& k) { k.shape.batch = 2, k.shape.batch_b += 1; });
  changed([](GemmKey& k) { k.shape.batch = 2, k.shape.batch_c += 1; });
  changed([](GemmKey& k) { k.in = GemmType::f16; });
  changed([](GemmKey& k) { k.out = GemmType::f32; });
  changed([](GemmKey& k) { k.epilogue = LibraryEpilogue::gelu_aux; });
  changed([](GemmKey& k) { k.tf32 = true; });
  changed([](GemmKey& k) { k.align_a = 16; });
  changed([](GemmKey& k) { k.align_b = 16; });
  changed([](GemmKey& k) { k.align_c = 16; });
  changed([](GemmKey& k) { k.align_extra = 16; });
  changed([](GemmKey& k) { k.workspace = 0; });
  std::set<std::string> lines;
  std::set<size_t> hashes;
  for (const GemmKey& k : keys) {
    lines.insert(k.text("NVIDIA H200/132", 130100));
    hashes.insert(GemmKeyHash{}(k));
    CHECK(k == k);
  }
  CHECK(lines.size() == keys.size());
  CHECK(hashes.size() == keys.size());
  for (size_t i = 1; i < keys.size(); ++i) CHECK(!(keys[i] == keys[0]));
  // Another GPU of the same kind may share plans: its number is in the key, its name in the line.
  GemmKey second = some_key();
  second.device = 1;
  CHECK(!(second == keys[0]));
  CHECK(second.text("NVIDIA H200/132", 130100) == keys[0].text("NVIDIA H200/132", 130100));
  CHECK(keys[0].text("NVIDIA H100/132", 130100) != keys[0].text("NVIDIA H200/132", 130100));
  CHECK(keys[0].text("NVIDIA H200/132", 130101) != keys[0].text("NVIDIA H200/132", 130100));
  CHECK(keys[0].text("NVIDIA H200/132", 130100) ==
        "NVIDIA_H200/132 cublaslt 130100 M 65536 N 3072 K 768 Bt ld 768 768 3072 bf16 to bf16 epilogue gelu_aux_bias "
        "align 256 256 256 256 workspace 34603008");
  // No name of a device can break the format.
  CHECK(keys[0].text("a | b\n\tc\x80", 1).find_first_of("|\n\t\x80") == std::string::npos);
}

TEST_CASE("a line of the plan file goes out and comes back") {
  for (uint64_t seed = 1; seed < 50; ++seed) {
    const PlanRecord r = some_record(seed);
    const std::string key = some_key().text("NVIDIA H200/132", 130100), line = plan_line(key, r);
    CHECK(line.size() < kPlanLineBytes);
    CHECK(line.find('\n') == std::string::npos);
    const auto back = parse_plan_line(line);
    REQUIRE(back);
    CHECK(back->first == key);
    CHECK(back->second == r);
  }
  PlanRecord r = some_record(1);  // numbers that no clock shows still make a line
  for (const double us : {-1.0, 1e300, std::numeric_limits<double>::quiet_NaN()}) {
    r.microseconds = us;
    CHECK(parse_plan_line(plan_line("key", r)));
  }
}

TEST_CASE("no damaged line is believed") {
  const std::string line = plan_line(some_key().text("NVIDIA H200/132", 130100), some_record(7));
  for (size_t i = 0; i < line.size(); ++i) {
    for (const char c : {'0', 'f', ' ', '|', '\0', 'x'}) {
      std::string wrong = line;
      if (wrong[i] == c) continue;
      wrong[i] = c;
      CHECK(!parse_plan_line(wrong));
    }
    CHECK(!parse_plan_line(line.substr(0, i)));
    CHECK(!parse_plan_line(line.substr(0, i) + line.substr(i + 1)));
    CHECK(!parse_plan_line(line.substr(i + 1)));
  }
  CHECK(!parse_plan_line(line + " "));
  CHECK(!parse_plan_line(line + "\r"));
  CHECK(!parse_plan_line(""));
  CHECK(!parse_plan_line(" | "));
  // A line that is whole but longer than any honest one.
  CHECK(!parse_plan_line(plan_line(std::string(kPlanLineBytes, 'k'), some_record(7))));
}

TEST_CASE("the plan file keeps records from process to process") {
  const Folder folder;
  const std::string path = folder.file("deep/er/gemm_plans.txt");
  {
    PlanFile file(path);
    CHECK(file.size() == 0);
    CHECK(file.find("a") == nullptr);
    CHECK(file.add("a", some_record(1)));
    CHECK(file.add("b", some_record(2)));
  }
  PlanFile first(path), second(path);
  REQUIRE(first.find("a"));
  CHECK(*first.find("a") == some_record(1));
  CHECK(*first.find("b") == some_record(2));
  CHECK(first.ignored_lines() == 0);
  // Two processes write by turns: neither loses the other's lines, and the first record of a key stays.
  CHECK(first.add("c", some_record(3)));
  CHECK(second.add("d", some_record(4)));
  CHECK(second.add("c", some_record(5)));
  const PlanFile third(path);
  CHECK(third.size() == 4);
  CHECK(*third.find("c") == some_record(3));
  CHECK(*third.find("d") == some_record(4));
  for (const auto& entry : fs::directory_iterator(fs::path(path).parent_path()))
    CHECK(entry.path() == fs::path(path));  // nothing is left beside it
}

TEST_CASE("a plan file with anything in it is read as far as it is sound") {
  const Folder folder;
  const std::string path = folder.file("gemm_plans.txt");
  const auto line = [](const char* key, uint64_t seed) { return plan_line(key, some_record(seed)) + "\n"; };
  std::string damaged = line("damaged", 2);
  damaged[damaged.size() / 2] ^= 1;
  const std::string garbage("\xff\xfe\0\n\0\0 | \r\n% d%s%n", 16);
  write_all(path, "# title\n\n" + line("one", 1) + damaged + garbage + "\n" + std::string(100000, 'x') + "\n" +
                      line("two", 3) + line("one", 9) + line("cut", 4).substr(0, 60));
  PlanFile file(path);
  CHECK(file.size() == 2);
  CHECK(*file.find("one") == some_record(1));
  CHECK(*file.find("two") == some_record(3));
  CHECK(file.find("damaged") == nullptr);
  CHECK(file.find("cut") == nullptr);
  CHECK(file.ignored_lines() >= 4);
  // The next write leaves the rubbish behind.
  CHECK(file.add("three", some_record(5)));
  const PlanFile clean(path);
  CHECK(clean.size() == 3);
  CHECK(clean.ignored_lines() == 0);
  CHECK(read_all(path).rfind("# ", 0) == 0);
}

TEST_CASE("random damage to a plan file never invents a record") {
  const Folder folder;
  const std::string path = folder.file("gemm_plans.txt");
  PlanFile whole(path);
  for (uint64_t i = 0; i < 8; ++i) whole.add("key" + std::to_string(i), some_record(i));
  const std::string text = read_all(path);
  std::mt19937_64 random(5);
  for (int round = 0; round < 200; ++round) {
    std::string wrong = text;
    for (uint64_t n = 1 + random() % 20; n > 0; --n) wrong[random() % wrong.size()] = static_cast<char>(random());
    if (random() % 3 == 0) wrong.resize(random() % wrong.size());
    write_all(path, wrong);
    const PlanFile file(path);
    CHECK(file.size() <= 8);
    for (uint64_t i = 0; i < 8; ++i)
      if (const PlanRecord* r = file.find("key" + std::to_string(i))) CHECK(*r == some_record(i));
  }
}

TEST_CASE("a plan file has bounds") {
  const Folder folder;
  const std::string path = folder.file("gemm_plans.txt");
  std::string text;
  for (size_t i = 0; i < kPlanFileLines + 100; ++i) text += plan_line("k" + std::to_string(i), some_record(1)) + "\n";
  write_all(path, text);
  PlanFile file(path);
  CHECK(file.size() == kPlanFileLines);
  CHECK(!file.add("one more", some_record(1)));  // full: the plan is used and not kept
  CHECK(file.find("one more") == nullptr);
  text = "# " + std::string(kPlanFileBytes, 'x') + "\n" + plan_line("behind", some_record(1)) + "\n";
  write_all(path, text);
  CHECK(PlanFile(path).size() == 0);  // what lies behind the bound is not read
}

TEST_CASE("a plan file that cannot be written or read is no error") {
  const Folder folder;
  write_all(folder.file("plain"), "text");
  PlanFile below_a_file(folder.file("plain") + "/gemm_plans.txt");
  CHECK(!below_a_file.add("a", some_record(1)));
  CHECK(*below_a_file.find("a") == some_record(1));  // this process goes on with it
  fs::create_directory(folder.path / "folder");
  PlanFile is_a_folder(folder.file("folder"));
  CHECK(!is_a_folder.add("a", some_record(1)));
  CHECK(fs::is_directory(folder.path / "folder"));
  PlanFile nowhere("");
  CHECK(!nowhere.add("a", some_record(1)));
  CHECK(nowhere.find("a"));
  PlanFile file(folder.file("gemm_plans.txt"));
  CHECK(!file.add("bad\nkey", some_record(1)));
  CHECK(!file.add("bad | key", some_record(1)));
  CHECK(!file.add("", some_record(1)));
  CHECK(file.add("good key", some_record(1)));
  CHECK(PlanFile(file.path()).ignored_lines() == 0);
}

TEST_CASE("where the plan file lies") {
  const auto with = [](const char* cache, const char* home) {
    cache ? setenv("ACCRETE_CACHE", cache, 1) : unsetenv("ACCRETE_CACHE");
    home ? setenv("HOME", home, 1) : unsetenv("HOME");
    return default_plan_path();
  };
  const char* before = std::getenv("HOME");
  const std::string home = before ? before : "";
  CHECK(with("/cache", "/home/me") == "/cache/gemm_plans.txt");
  CHECK(with(nullptr, "/home/me") == "/home/me/.cache/accrete/gemm_plans.txt");
  CHECK(with("", "") == "");
  CHECK(with(nullptr, nullptr) == "");
  with(nullptr, before ? home.c_str() : nullptr);
}
