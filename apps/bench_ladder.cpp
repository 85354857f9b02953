#include <cmath>
#include <cstdio>
#include <iostream>

#include "apps/bench.h"
#include "engine/core/error.h"
#if defined(ACCRETE_WITH_CUDA)
#include "kernels/ladder/harness.h"
#else
#include "kernels/ladder/ladder.h"
#endif

namespace accrete {

void bench_ladder(const std::string& only, const std::string& device_name, const BenchOptions& o) {
  check(only.empty() || kernels::find_ladder(only), "bench", "no ladder is named \"", only,
        "\"; `inspect kernel` lists them");
  const Device device = parse_device(device_name);
  check(device.kind == DeviceKind::cuda, "bench", "the ladder is timed on a GPU; got device ", device,
        "; `inspect kernel NAME --emulate` checks its steps without one");
#if defined(ACCRETE_WITH_CUDA)
  const kernels::Cuda& ctx = cuda_context(device.index);
  Json rows = Json::array();
  if (!o.json)
    std::printf("%s\n%-14s %4s %-44s %12s %10s %10s\n", describe(device).c_str(), "ladder", "step", "", "us", "GB/s",
                "GFLOP/s");
  for (const kernels::Ladder& l : kernels::ladders()) {
    if (!only.empty() && only != l.name) continue;
    for (int step = 1; step <= static_cast<int>(l.steps.size()); ++step) {
      const kernels::LadderStep& s = l.steps[static_cast<size_t>(step - 1)];
      const kernels::LadderCheck c = kernels::check_step(ctx, l, step, l.small);
      check(c.error <= s.tolerance && c.intact, "bench", l.name, " step ", step, " is wrong: error ", c.error,
            " in array ", c.array, c.intact ? "" : ", and it writes beyond its arrays", "; allowed ", s.tolerance);
      const double once = kernels::time_step(ctx, l, step, l.large, 1);
      const int repeats = static_cast<int>(std::fmin(1000.0, std::fmax(1.0, o.seconds / 7 / once)));
      const double seconds = kernels::time_step(ctx, l, step, l.large, repeats);
      // Against what must move, not what the step asks for: so that steps can be compared.
      const double bytes = l.least_bytes(l.large) / (s.half ? 2 : 1), flops = l.flops(l.large);
      rows.push_back(Json{{"ladder", l.name},
                          {"step", step},
                          {"title", s.title},
                          {"seconds", seconds},
                          {"useful_bytes_per_second", bytes / seconds},
                          {"flops_per_second", flops / seconds},
                          {"error", c.error}});
      if (!o.json)
        std::printf("%-14s %4d %-44s %12.1f %10.0f %10.0f\n", l.name, step, s.title, seconds * 1e6,
                    bytes / seconds / 1e9, flops / seconds / 1e9);
    }
  }
  if (o.json) std::cout << Json{{"device", describe(device)}, {"steps", rows}}.dump(2) << "\n";
#else
  (void)o;
#endif
}

}  // namespace accrete
