#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "apps/inspect.h"
#include "engine/core/suggest.h"
#if defined(ACCRETE_WITH_EMULATOR)
#include "kernels/emulator.h"
#include "kernels/ladder/harness.h"
#else
#include "kernels/ladder/ladder.h"
#endif

namespace accrete {
namespace {

using kernels::Ladder;
using kernels::LadderSizes;
using kernels::LadderStep;

constexpr size_t kWidth = 100;  // of the terminal that text is broken for

// Words of `text` in lines that begin with `indent` spaces.
std::string wrapped(const std::string& text, size_t indent) {
  std::istringstream words(text);
  std::string out, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && indent + line.size() + 1 + word.size() > kWidth) {
      out += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + std::string(indent, ' ') + line + "\n";
}

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string amount(double x, const char* unit) {  // 1.5 G and the unit
  const char* prefix[] = {"", "k", "M", "G", "T"};
  int i = 0;
  while (x >= 1000 && i < 4) x /= 1000, ++i;
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %s%s", x, prefix[i], unit);
  return text;
}

std::string sizes_text(const Ladder& l, const LadderSizes& sizes) {
  std::string text;
  for (int i = 0; i < 3 && l.letters[i]; ++i)
    text += (i ? ", " : "") + std::string(l.letters[i]) + " = " + with_commas(sizes[i]);
  return text;
}

Json sizes_json(const Ladder& l, const LadderSizes& sizes) {
  Json j = Json::object();
  for (int i = 0; i < 3 && l.letters[i]; ++i) j[l.letters[i]] = sizes[i];
  return j;
}

Json step_json(const Ladder& l, int number) {
  const LadderStep& s = l.steps[static_cast<size_t>(number - 1)];
  return Json{{"step", number},
              {"title", s.title},
              {"why", s.why},
              {"traffic", s.traffic},
              {"storage", s.half ? "bf16" : "f32"}};
}

void print_step(const Ladder& l, int number) {
  const LadderStep& s = l.steps[static_cast<size_t>(number - 1)];
  std::printf("\nstep %d    %s\n%s", number, s.title, wrapped(s.why, 10).c_str());
}

void list_ladders(bool json) {
  Json all = Json::array();
  if (!json) std::printf("Kernels from the first idea to a tuned form (kernels/ladder/README.md).\n");
  for (const Ladder& l : kernels::ladders()) {
    Json steps = Json::array();
    if (!json) std::printf("\n%-15s%s\n", l.name, l.formula);
    for (size_t i = 0; i < l.steps.size(); ++i) {
      steps.push_back(l.steps[i].title);
      if (!json) std::printf("    step %zu      %s\n", i + 1, l.steps[i].title);
    }
    all.push_back(Json{{"name", l.name}, {"formula", l.formula}, {"steps", steps}});
  }
  if (json)
    std::cout << Json{{"ladders", all}}.dump(2) << "\n";
  else
    std::printf(
        "\ninspect kernel NAME            why each step helps, bytes\n"
        "inspect kernel NAME --emulate  runs the steps here, checked\n");
}

// The steps in words and bytes, at the size that is worth timing.
Json describe_ladder(const Ladder& l, int first, int last, bool json) {
  Json steps = Json::array();
  const double least = l.least_bytes(l.large);
  if (!json)
    std::printf("%s: %s\n%s: %s, and %s that must move in f32\n", l.name, l.formula, sizes_text(l, l.large).c_str(),
                amount(l.flops(l.large), "FLOP").c_str(), amount(least, "B").c_str());
  for (int i = first; i <= last; ++i) {
    const LadderStep& s = l.steps[static_cast<size_t>(i - 1)];
    const double bytes = s.bytes(l.large);
    Json j = step_json(l, i);
    j["bytes"] = bytes;
    j["least_bytes"] = least;
    j["flops"] = l.flops(l.large);
    steps.push_back(std::move(j));
    if (json) continue;
    print_step(l, i);
    std::printf("          memory    %s = %s\n", s.traffic, amount(bytes, "B").c_str());
    std::printf("          time      not yet measured\n");
  }
  return steps;
}

#if defined(ACCRETE_WITH_EMULATOR)

// What the emulator tells about one kernel of a step.
struct KernelTrace {
  std::string kernel;
  int64_t launches = 0, blocks = 0, threads = 0;        // blocks and threads per block of the last launch
  std::vector<std::pair<std::string, int64_t>> shared;  // arrays and bytes, per block
  struct Barrier {
    std::string where;
    int64_t fewest = 0, most = 0, now = 0;  // times in a block
    int64_t threads = 0;
  };
  std::vector<Barrier> barriers;
  std::vector<std::string> first_block;  // events in order
};

std::string base_name(const std::string& where) { return where.substr(where.find_last_of('/') + 1); }

// Listens while it lives.
class Listener {
 public:
  Listener() {
    kernels::set_emulator_trace([this](const kernels::TraceEvent& e) { hear(e); });
  }
  ~Listener() { kernels::set_emulator_trace({}); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  const std::vector<KernelTrace>& kernels_seen() const { return seen_; }

 private:
  void hear(const kernels::TraceEvent& e) {
    using kernels::blockDim, kernels::gridDim;
    std::string name = e.kernel;
    if (name.starts_with('(') && name.ends_with(')')) name = name.substr(1, name.size() - 2);
    auto found = std::find_if(seen_.begin(), seen_.end(), [&](const auto& x) { return x.kernel == name; });
    if (found == seen_.end()) found = seen_.insert(found, {.kernel = name});
    KernelTrace& k = *found;
    const bool first = k.launches == 1 && blocks_done_ == 0;
    switch (e.kind) {
      case kernels::TraceEvent::block_begin:
        k.blocks = int64_t{gridDim.x} * gridDim.y * gridDim.z;
        k.threads = int64_t{blockDim.x} * blockDim.y * blockDim.z;
        if (blocks_done_ == 0) ++k.launches;
        for (auto& b : k.barriers) b.now = 0;
        break;
      case kernels::TraceEvent::shared_array:
        if (!first) break;
        k.shared.emplace_back(e.name, e.amount);
        k.first_block.push_back("shared memory " + e.name + ", " + with_commas(e.amount) + " bytes");
        break;
      case kernels::TraceEvent::barrier: {
        const std::string where = base_name(e.name);
        auto b = std::find_if(k.barriers.begin(), k.barriers.end(), [&](const auto& x) { return x.where == where; });
        if (b == k.barriers.end()) b = k.barriers.insert(b, {.where = where, .fewest = first ? INT64_MAX : 0});
        ++b->now;
        b->threads = e.amount;
        if (first) k.first_block.push_back("barrier " + where + ", " + with_commas(e.amount) + " threads");
        break;
      }
      case kernels::TraceEvent::block_end:
        for (auto& b : k.barriers) b.fewest = std::min(b.fewest, b.now), b.most = std::max(b.most, b.now);
        if (++blocks_done_ == k.blocks) blocks_done_ = 0;
        break;
    }
  }

  std::vector<KernelTrace> seen_;
  int64_t blocks_done_ = 0;  // of the launch that runs
};

std::string times_text(const KernelTrace::Barrier& b) {
  std::string text = with_commas(b.most);
  if (b.fewest != b.most) text = with_commas(b.fewest) + " to " + text;
  return b.where + " x " + text;
}

void print_kernel(const KernelTrace& k, bool trace) {
  const std::string launches = k.launches == 1 ? "" : with_commas(k.launches) + " launches, each ";
  std::printf("          launch    %s: %s%s of %s threads\n", k.kernel.c_str(), launches.c_str(),
              (with_commas(k.blocks) + (k.blocks == 1 ? " block" : " blocks")).c_str(), with_commas(k.threads).c_str());
  for (size_t i = 0; i < k.shared.size(); ++i)
    std::printf("          %s %s, %s bytes\n", i == 0 ? "  shared " : "         ", k.shared[i].first.c_str(),
                with_commas(k.shared[i].second).c_str());
  for (size_t i = 0; i < k.barriers.size(); ++i)
    std::printf("          %s %s in a block, %s threads\n", i == 0 ? "  barrier" : "         ",
                times_text(k.barriers[i]).c_str(), with_commas(k.barriers[i].threads).c_str());
  if (!trace) return;
  std::printf("            block 0, in order\n");
  for (size_t i = 0; i < k.first_block.size(); ++i) std::printf("              %s\n", k.first_block[i].c_str());
}

Json kernel_json(const KernelTrace& k) {
  Json shared = Json::array(), barriers = Json::array();
  for (const auto& [name, bytes] : k.shared) shared.push_back(Json{{"array", name}, {"bytes", bytes}});
  for (const auto& b : k.barriers)
    barriers.push_back(Json{{"where", b.where}, {"fewest", b.fewest}, {"most", b.most}, {"threads", b.threads}});
  return Json{{"kernel", k.kernel}, {"launches", k.launches}, {"blocks", k.blocks},          {"threads", k.threads},
              {"shared", shared},   {"barriers", barriers},   {"first_block", k.first_block}};
}

// Runs the steps in three orders of warps, at a small ragged size.
Json emulate_ladder(const Ladder& l, int first, int last, const KernelOptions& o) {
  using kernels::WarpOrder;
  Json steps = Json::array();
  if (!o.json) std::printf("%s: %s\n%s\n", l.name, l.formula, sizes_text(l, l.small).c_str());
  bool all_right = true;
  for (int i = first; i <= last; ++i) {
    const LadderStep& s = l.steps[static_cast<size_t>(i - 1)];
    kernels::LadderCheck worst;
    std::vector<KernelTrace> seen;
    for (const WarpOrder order : {WarpOrder::forward, WarpOrder::reverse, WarpOrder::shuffled}) {
      const Listener listener;
      const kernels::LadderCheck check = kernels::check_step(kernels::Emu{.order = order}, l, i, l.small);
      if (order == WarpOrder::forward) seen = listener.kernels_seen();
      if (check.error >= worst.error) worst.error = check.error, worst.array = check.array;
      worst.intact = worst.intact && check.intact;
    }
    const bool right = worst.error <= s.tolerance && worst.intact;
    all_right = all_right && right;
    Json j = step_json(l, i);
    j["error"] = std::isfinite(worst.error) ? Json(worst.error) : Json("infinite");
    j["tolerance"] = s.tolerance;
    j["right"] = right;
    j["kernels"] = Json::array();
    for (const KernelTrace& k : seen) j["kernels"].push_back(kernel_json(k));
    steps.push_back(std::move(j));
    if (o.json) continue;
    print_step(l, i);
    for (const KernelTrace& k : seen) print_kernel(k, o.trace);
    std::printf("          error     %.1e of the largest value, %.0e allowed; 3 orders of warps: %s\n", worst.error,
                s.tolerance,
                right          ? "right"
                : worst.intact ? "WRONG"
                               : "WRONG, and it writes beyond its arrays");
  }
  check(all_right, "inspect", "a step of ", l.name, " is wrong under the emulator");
  return steps;
}

#endif

}  // namespace

void inspect_kernel(const KernelOptions& o) {
  if (o.name.empty()) return list_ladders(o.json);
  const Ladder* l = kernels::find_ladder(o.name);
  if (!l) {
    std::vector<std::string> names;
    for (const Ladder& each : kernels::ladders()) names.push_back(each.name);
    const std::string near = nearest(o.name, names);
    fail("inspect", "no ladder is named \"", o.name, "\"", near.empty() ? "" : "; did you mean \"" + near + "\"?",
         "; `inspect kernel` lists them");
  }
  const int count = static_cast<int>(l->steps.size());
  check(o.step <= count, "inspect", "--step: ", l->name, " has the steps 1 to ", count, "; got ", o.step);
  const int first = o.step == 0 ? 1 : o.step, last = o.step == 0 ? count : o.step;
  check(!o.trace || o.emulate, "inspect", "--trace needs --emulate");
  Json steps;
  if (!o.emulate) {
    steps = describe_ladder(*l, first, last, o.json);
  } else {
#if defined(ACCRETE_WITH_EMULATOR)
    steps = emulate_ladder(*l, first, last, o);
#else
    fail("inspect", "this build has no block emulator; install Boost.Context and configure with -DACCRETE_EMULATOR=ON");
#endif
  }
  if (o.json)
    std::cout << Json{{"name", l->name},
                      {"formula", l->formula},
                      {"sizes", sizes_json(*l, o.emulate ? l->small : l->large)},
                      {"steps", steps}}
                     .dump(2)
              << "\n";
}

}  // namespace accrete
