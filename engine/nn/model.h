// What training needs to know of a model, and nothing more. Concrete models live in models/.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/batch.h"
#include "engine/nn/context.h"
#include "engine/nn/params.h"

namespace accrete {

// What the targets are: decides which measures beside the loss a run reports.
enum class Task : uint8_t {
  tokens,   // next tokens: perplexity
  classes,  // one class per sample: top-1 and top-5 accuracy
};

// Sums over the counted targets of a batch, so that averages over many batches are exact.
struct EvalSums {
  double loss = 0;            // sum of the negative log likelihoods (nats)
  double top1 = 0, top5 = 0;  // Task::classes: targets whose class has the largest, one of the five largest logits
  int64_t count = 0;          // counted targets
  EvalSums& operator+=(const EvalSums& b) {
    loss += b.loss, top1 += b.top1, top5 += b.top5, count += b.count;
    return *this;
  }
};

class Model {
 public:
  virtual ~Model() = default;
  virtual std::string family() const = 0;  // "gpt"
  virtual Task task() const { return Task::tokens; }
  virtual nlohmann::ordered_json config() const = 0;  // complete; a factory makes the same model from it
  virtual ParamStore& params() = 0;
  const ParamStore& params() const { return const_cast<Model*>(this)->params(); }
  // Mean loss of the batch, () f32, differentiable under a tape.
  virtual Tensor loss(const Batch& batch, const Context& ctx) = 0;
  // The residual stream (B, T, C) after the first `blocks` blocks, before any final norm; 0: after the embedding.
  virtual Tensor features(const Batch& batch, const Context& ctx, int64_t blocks) = 0;
  // Without gradients.
  virtual EvalSums evaluate(const Batch& batch, const Context& ctx) = 0;
};

// Makes a model from its config; values are not initialised. Training knows models only through this.
using ModelFactory =
    std::function<std::unique_ptr<Model>(const nlohmann::ordered_json& config, DType compute, Device device)>;

}  // namespace accrete
