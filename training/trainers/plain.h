// Plain training: the stage as it is.
#pragma once

#include "training/method.h"

namespace accrete {

class Plain : public Plan {
 public:
  Plain(const Json& plan, const Stage& stage);
  std::optional<Stage> next(Results done) const override;

 private:
  Stage stage_;
};

}  // namespace accrete
