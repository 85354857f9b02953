#include "training/trainers/imitation.h"

#include "engine/ops/ops.h"
#include "training/depth_split.h"
#include "training/grow.h"

namespace accrete {

std::function<LossFn(StageStart&)> imitation(Imitation settings) {
  return [s = std::move(settings)](StageStart& start) -> LossFn {
    const std::shared_ptr<Model> teacher = start.model(s.teacher);
    freeze(teacher->params(), [](const ParamEntry&) { return false; });
    if (!start.dry) restore(teacher->params(), s.weights(start));
    Model* const network = start.network;
    const int64_t end = total_depth(network->config()) - s.behind;
    return [=, blocks = s.blocks, weight = static_cast<float>(s.task_weight)](const Batch& batch, const Context& ctx) {
      Context quiet = ctx;
      quiet.training = false;
      quiet.skip = nullptr;
      Tensor goal;
      {
        const NoGrad frozen;
        goal = teacher->features(batch, quiet, blocks);
      }
      const Tensor made = network->features(batch, ctx, end);
      const Tensor gap = ops::sub(ops::cast(made, DType::f32), ops::cast(goal, DType::f32));
      const Tensor distance = ops::mean(ops::unary(ops::Unary::square, gap));
      return weight == 0 ? distance : ops::add(distance, ops::scale(network->loss(batch, ctx), weight));
    };
  };
}

}  // namespace accrete
