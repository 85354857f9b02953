// inspect ops: what the engine can do. The list is the op table that the tests run; every "yes" of this page is an op
// that has just run in this process.
#include <cstdio>
#include <iostream>

#include "apps/inspect.h"
#include "engine/ops/op_cases.h"

namespace accrete {
namespace {

// The smallest case with work in it.
const ops::OpCase& small_case(const ops::OpRow& row) {
  const ops::OpCase* best = nullptr;
  int64_t best_count = 0;
  for (const ops::OpCase& c : row.cases) {
    int64_t count = 0;
    bool empty = false;
    for (const ops::OpInput& in : c.inputs) {
      if (in.kind == ops::OpInput::Kind::absent) continue;
      count += in.shape.count();
      empty = empty || in.shape.count() == 0;
    }
    if (!empty && (!best || count < best_count)) best = &c, best_count = count;
  }
  return best ? *best : row.speed;
}

struct Support {
  bool value = false, gradient = false;
  std::string problem;
};

Support try_op(const ops::OpRow& row, DType dtype, Device device) {
  Support s;
  try {
    const ops::OpCase& c = small_case(row);
    const bool wants = row.no_gradient.empty();
    const ops::Tensors inputs = ops::make_inputs(c, dtype, device, 1, wants);
    Tape tape;
    const ops::Tensors y = row.run(inputs, c.settings);
    s.value = true;
    if (!wants) return s;
    backward(y.back(), Tensor::zeros(y.back().shape(), y.back().dtype(), device));
    s.gradient = true;
  } catch (const Error& e) {
    s.problem = e.what();
  }
  return s;
}

std::vector<Device> devices() {
#if defined(ACCRETE_WITH_EMULATOR)
  return {kCpu, kEmu};
#else
  return {kCpu};
#endif
}

}  // namespace

void inspect_ops(bool json) {
  Json rows = Json::array();
  if (!json) {
    std::printf("%-20s", "op");
    for (const Device d : devices())
      for (const DType t : {DType::f32, DType::bf16, DType::f16})
        std::printf(" %-9s", (std::string(name_of(d)) + " " + std::string(name_of(t))).c_str());
    std::printf(" %-8s %-5s %5s  %-9s %-9s %s\n", "gradient", "plain", "cases", "f32 tol", "bf16 tol", "functions");
  }
  for (const ops::OpRow& row : ops::op_table()) {
    Json j{{"op", row.name},
           {"functions", row.functions},
           {"cases", row.cases.size()},
           {"plain", row.plain != nullptr},
           {"f32_tolerance", row.value_tolerance},
           {"f32_gradient_tolerance", row.gradient_tolerance},
           {"bf16_tolerance", row.bf16_tolerance},
           {"f16_tolerance", row.half_tolerance(DType::f16)},
           {"why", row.why}};
    bool gradient = true;
    std::string marks;
    j["devices"] = Json::object();
    for (const Device d : devices()) {
      for (const DType t : {DType::f32, DType::bf16, DType::f16}) {
        const Support s = try_op(row, t, d);
        gradient = gradient && s.gradient;
        Json& cell = j["devices"][std::string(name_of(d))][std::string(name_of(t))];
        cell = Json{{"value", s.value}, {"gradient", s.gradient}};
        if (!s.problem.empty()) cell["problem"] = s.problem;
        char text[16];
        std::snprintf(text, sizeof text, " %-9s", s.value ? (s.gradient ? "yes" : "value") : "no");
        marks += text;
      }
    }
    j["gradient"] = gradient;
    if (!row.no_gradient.empty()) j["no_gradient"] = row.no_gradient;
    if (!json) {
      std::string functions;
      for (const std::string& f : row.functions) functions += (functions.empty() ? "" : ", ") + f;
      if (!row.no_gradient.empty()) functions += "   (no gradient: " + row.no_gradient + ")";
      std::printf("%-20s%s %-8s %-5s %5zu  %-9.2g %-9.2g %s\n", row.name.c_str(), marks.c_str(),
                  gradient ? "yes" : "no", row.plain ? "yes" : "-", row.cases.size(), row.value_tolerance,
                  row.bf16_tolerance, functions.c_str());
    }
    rows.push_back(std::move(j));
  }
  if (json)
    std::cout << Json{{"ops", rows}}.dump(2) << "\n";
  else
    std::printf("%zu ops. yes: value and gradient ran here; emu: the CUDA kernels under the block emulator.\n",
                rows.size());
}

}  // namespace accrete
