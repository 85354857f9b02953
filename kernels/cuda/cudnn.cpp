#include "kernels/cuda/cudnn.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace accrete::kernels {
namespace {

// Older ones have errors in attention that callers must work around (lengths that are no multiple of 128).
constexpr size_t kOldestVersion = 91600;

// Of the major version that the header belongs to: where the loader looks, else where the toolkit of the build was.
const Cudnn* load() {
  if (const char* value = std::getenv("ACCRETE_CUDNN"); value && std::string_view(value) == "off") return nullptr;
  const std::string name = "libcudnn.so." + std::to_string(CUDNN_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays open until the process ends
  if (!library) library = dlopen((ACCRETE_CUDA_LIBRARY_DIR "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return nullptr;
  static Cudnn functions;
  bool complete = true;
#define ACCRETE_CUDNN_FIND(name)                                                              \
  functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, "cudnn" #name)); \
  complete = complete && functions.name;
  ACCRETE_CUDNN_FUNCTIONS(ACCRETE_CUDNN_FIND)
#undef ACCRETE_CUDNN_FIND
  return complete && functions.GetVersion() >= kOldestVersion ? &functions : nullptr;
}

}  // namespace

const Cudnn* cudnn() {
  static const Cudnn* const functions = load();
  return functions;
}

}  // namespace accrete::kernels
