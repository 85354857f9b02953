// bench ops: every row of the op table at a realistic size against the machine's ceilings.
//
// The floor of an op is the larger of FLOPs / product ceiling and bytes / copy bandwidth; "share" is floor / time. What
// fits into the caches can move faster than memory: shares above 100 % are possible there.
#include <algorithm>
#include <cstdio>
#include <iostream>

#include "apps/bench.h"
#include "apps/op_speed.h"

namespace accrete {
namespace {

// One direction of one op.
Json figures(double seconds, double flops, double bytes, const Ceilings& c, DType dtype) {
  const double compute = flops / c.flops(dtype), memory = bytes / c.copy_all;
  return Json{{"seconds", seconds},
              {"flops", flops},
              {"bytes", bytes},
              {"gflops", flops / seconds / 1e9},
              {"gb_per_s", bytes / seconds / 1e9},
              {"bound", compute > memory ? "compute" : "memory"},
              {"share_of_ceiling", std::max(compute, memory) / seconds}};
}

void print(const std::string& name, DType dtype, const char* direction, const Json& f) {
  const bool compute = f["bound"] == "compute";
  std::printf("%-20s %-5s %-9s %10.1f", name.c_str(), name_of(dtype).data(), direction,
              f["seconds"].get<double>() * 1e6);
  if (f["share_of_ceiling"].get<double>() > 0)  // nothing: an op that only hands on what it got
    std::printf(" %10.1f %-8s %7.0f%%", f[compute ? "gflops" : "gb_per_s"].get<double>(), compute ? "GFLOP/s" : "GB/s",
                f["share_of_ceiling"].get<double>() * 100);
  std::printf("\n");
}

ops::OpSpeed on_host(const ops::OpRow& row, DType dtype, double seconds) {
  const ops::OpSpeed once = ops::measure_speed(row, dtype, kCpu, 3);
  const double repeats = std::clamp(seconds / std::max(1e-6, once.forward_s + once.backward_s), 5.0, 2000.0);
  return ops::measure_speed(row, dtype, kCpu, static_cast<int>(repeats));
}

}  // namespace

void bench_ops(const std::string& only, int64_t tokens, const BenchOptions& o) {
  const auto& table = ops::op_table();
  if (tokens == 0) tokens = o.device.kind == DeviceKind::cuda ? 65536 : 1024;
  check(tokens % 1024 == 0, "bench", "--tokens is not a multiple of 1024; got ", tokens);
  const auto wanted = [&](const ops::OpRow& row) { return row.name.find(only) != std::string::npos; };
  check(std::any_of(table.begin(), table.end(), wanted), "bench", "no op has \"", only,
        "\" in its name; see `inspect ops`");
  const Ceilings ceilings = measure_ceilings(o.device);
  if (!o.json)
    std::printf("%s\n%-20s %-5s %-9s %10s %10s %-8s %8s\n", to_text(ceilings).c_str(), "op", "type", "", "us", "rate",
                "", "ceiling");
  Json rows = Json::array();
  for (const ops::OpRow& row : table) {
    if (!wanted(row)) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const ops::OpSpeed s = o.device.queued() ? measure_op_queued(row, dtype, o.device, tokens, o.seconds)
                                               : on_host(row, dtype, o.seconds);
      Json j{{"op", row.name}, {"dtype", name_of(dtype)}};
      j["forward"] = figures(s.forward_s, s.cost.flops, s.cost.bytes, ceilings, dtype);
      if (s.backward_s > 0)
        j["backward"] = figures(s.backward_s, s.cost.backward_flops, s.cost.backward_bytes, ceilings, dtype);
      if (!o.json) {
        print(row.name, dtype, "forward", j["forward"]);
        if (j.contains("backward")) print(row.name, dtype, "backward", j["backward"]);
      }
      rows.push_back(std::move(j));
    }
  }
  if (o.json) std::cout << Json{{"ceilings", to_json(ceilings)}, {"ops", rows}}.dump(2) << "\n";
}

}  // namespace accrete
