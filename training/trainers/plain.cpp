#include "training/trainers/plain.h"

namespace accrete {
namespace {

struct PlainConfig {
  std::string name = "plain";
  template <class V>
  void fields(V& v) {
    v("name", name, "plan");
  }
};

}  // namespace

Plain::Plain(const Json& plan, const Stage& stage) : stage_(stage) {
  PlainConfig config;
  from_json(config, plan, "plan");
}

std::optional<Stage> Plain::next(Results done) const {
  if (!done.empty()) return std::nullopt;
  return stage_;
}

}  // namespace accrete
