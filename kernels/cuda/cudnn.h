// cuDNN's graph API, loaded when the first attention is met that it could serve. Nothing needs it: where it is absent,
// too old or turned off (ACCRETE_CUDNN=off), attention stays with our kernels, without a word.
#pragma once

#include <cudnn_graph.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace accrete::kernels {

// The functions of the library that are used here; what they do is said in cudnn_graph.h.
struct Cudnn {
#define ACCRETE_CUDNN_FUNCTIONS(X) \
  X(Create)                        \
  X(SetStream)                     \
  X(GetVersion)                    \
  X(GetErrorString)                \
  X(BackendCreateDescriptor)       \
  X(BackendDestroyDescriptor)      \
  X(BackendSetAttribute)           \
  X(BackendGetAttribute)           \
  X(BackendFinalize)               \
  X(BackendExecute)
#define ACCRETE_CUDNN_MEMBER(name) decltype(&::cudnn##name) name = nullptr;
  ACCRETE_CUDNN_FUNCTIONS(ACCRETE_CUDNN_MEMBER)
#undef ACCRETE_CUDNN_MEMBER
};

// Null where cuDNN is not to be had. Loads the library at the first call.
const Cudnn* cudnn();

namespace dnn {

// What cuDNN says no to. Caught where a plan is looked for; elsewhere an error like any other.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline void check(cudnnStatus_t status, const char* statement, const char* file, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw Refusal(std::string("[cudnn] ") + cudnn()->GetErrorString(status) + "; statement: " + statement + "; " + file +
                ":" + std::to_string(line) + "; ACCRETE_CUDNN=off does without cuDNN");
}
#define ACCRETE_DNN(call) ::accrete::kernels::dnn::check(call, #call, __FILE__, __LINE__)

// Owner of one of cuDNN's descriptors: set its attributes, then finalize it. Throws Refusal.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    ACCRETE_DNN(cudnn()->BackendCreateDescriptor(type, &handle_));
  }
  ~Descriptor() {
    if (handle_) cudnn()->BackendDestroyDescriptor(handle_);
  }
  Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  template <class V>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const std::vector<V>& values) {
    ACCRETE_DNN(cudnn()->BackendSetAttribute(handle_, name, type, static_cast<int64_t>(values.size()), values.data()));
  }
  template <class V>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const V& value) {
    ACCRETE_DNN(cudnn()->BackendSetAttribute(handle_, name, type, 1, &value));
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, other.handle_);
  }
  // Up to as many values as `room` holds; returns how many there are.
  template <class V>
  int64_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::vector<V>& room) const {
    int64_t count = 0;
    ACCRETE_DNN(cudnn()->BackendGetAttribute(handle_, name, type, static_cast<int64_t>(room.size()), &count,
                                             room.empty() ? nullptr : room.data()));
    return count;
  }
  int64_t get_int(cudnnBackendAttributeName_t name) const {
    std::vector<int64_t> value(1);
    get(name, CUDNN_TYPE_INT64, value);
    return value[0];
  }
  void finalize() { ACCRETE_DNN(cudnn()->BackendFinalize(handle_)); }
  cudnnBackendDescriptor_t handle() const { return handle_; }

 private:
  cudnnBackendDescriptor_t handle_ = nullptr;
};

}  // namespace dnn
}  // namespace accrete::kernels
