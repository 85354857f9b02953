// What `evaluate` measures: of texts, of pictures.
#pragma once

#include <string>

#include "apps/program.h"
#include "engine/nn/model.h"

namespace accrete {

struct EvaluateOptions {
  std::string model, data, split = "valid", task, precision = "f32", device = "auto";
  int64_t length = 0, stride = 0, batch = 0, batches = 0;  // texts: length, stride
  int64_t resolution = 0;                                  // pictures, as what follows
  double crop_pct = 0;
  bool per_class = false, ema = false;
  std::string confusion;
  int threads = 1;
  ReportOptions report;
};

// Tasks loss and perplexity.
void evaluate_text(const EvaluateOptions& options, Model& model);
// Tasks loss and top1.
void evaluate_pictures(const EvaluateOptions& options, Model& model);

}  // namespace accrete
