// The plan file: which algorithm was chosen for which product, one readable line each. Attention has lines here too
// (attention_choice.h).
//
//   <key> | fused timed 12.5 us workspace 1048576 algorithm <128 hex digits> | <16 hex digits: checksum of the line>
//
// Why a file: algorithms are chosen by timing, and timing may end differently tomorrow. Two algorithms add in different
// orders and so differ in the last bits. A run that is stopped and continued takes the same plans, and so has the same
// bits, because it finds them here; it also starts faster. Without the file (deleted, unwritable, another GPU or
// library) the results stay correct and are repeatable within the process, no more. ACCRETE_GEMM_TIMING=off takes the
// library's first suggestion everywhere and neither reads nor writes a file: repeatable by itself, somewhat slower.
//
// A line that is damaged, too long, or not understood is left out and is no error; the checksum sees to it that no
// damaged algorithm reaches the library. Lines of other devices and versions are kept. Writing goes to a new file that
// then replaces the old one. Two processes that write at the same moment may lose a line, never damage the file.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace accrete::kernels {

struct PlanRecord {
  bool fused = true;                    // the library does the epilogue; otherwise it is done by kernels of its own
  bool timed = false;                   // chosen by timing; otherwise the library's first suggestion
  double microseconds = 0;              // of the product, when timed
  uint64_t workspace = 0;               // bytes the algorithm needs
  std::array<uint64_t, 8> algorithm{};  // the library's own description, opaque
  friend bool operator==(const PlanRecord&, const PlanRecord&) = default;
};

inline constexpr size_t kPlanLineBytes = 1024, kPlanFileBytes = size_t{4} << 20, kPlanFileLines = 8192;

std::string plan_line(const std::string& key, const PlanRecord& record);  // without the end of line
// Nothing when the line is not exactly what plan_line makes.
std::optional<std::pair<std::string, PlanRecord>> parse_plan_line(std::string_view line);

class PlanFile {
 public:
  // Reads what is there. An empty path: no file, everything is kept in memory only.
  explicit PlanFile(std::string path);
  const PlanRecord* find(const std::string& key) const;  // null: unknown
  // Keeps the record and writes the file anew, together with what other processes wrote meanwhile. Never throws for the
  // sake of the file; false when it could not be written.
  bool add(const std::string& key, const PlanRecord& record);
  size_t size() const { return lines_.size(); }
  size_t ignored_lines() const { return ignored_; }  // of the file as last read
  const std::string& path() const { return path_; }

 private:
  void read();
  bool write() const;
  void keep(std::string key, const PlanRecord& record);  // the first record of a key stays

  std::string path_;
  std::vector<std::string> lines_;  // keys, oldest first
  std::unordered_map<std::string, PlanRecord> records_;
  size_t ignored_ = 0;
};

// $ACCRETE_CACHE/gemm_plans.txt, else ~/.cache/accrete/gemm_plans.txt; empty when neither folder is named.
std::string default_plan_path();

}  // namespace accrete::kernels
