#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace accrete::kernels {
namespace {

// The version that the header belongs to, else any; where the loader looks, else where the toolkit of the build was.
void* open_library() {
  const std::string name = "libcublasLt.so", versioned = name + "." + std::to_string(CUBLAS_VER_MAJOR);
  const std::string folder = ACCRETE_CUDA_LIBRARY_DIR;
  std::string why;
  for (const std::string& path : {versioned, folder + "/" + versioned, name, folder + "/" + name}) {
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
    if (why.empty()) why = dlerror();
  }
  throw std::runtime_error("[cuda] cuBLASLt does not load; expected " + versioned +
                           " of the CUDA toolkit on the library path; got: " + why +
                           "; set LD_LIBRARY_PATH to the folder that holds it, or use --device cpu");
}

CublasLt load() {
  void* const library = open_library();  // stays open until the process ends
  CublasLt functions;
  const auto find = [&](const char* name) {
    void* const function = dlsym(library, name);
    if (!function)
      throw std::runtime_error(std::string("[cuda] the cuBLASLt that was found lacks ") + name +
                               "; install that of CUDA " + std::to_string(CUBLAS_VER_MAJOR) + " or newer");
    return function;
  };
#define ACCRETE_LT_FIND(name) functions.name = reinterpret_cast<decltype(functions.name)>(find("cublasLt" #name));
  ACCRETE_LT_FUNCTIONS(ACCRETE_LT_FIND)
#undef ACCRETE_LT_FIND
  return functions;
}

}  // namespace

const CublasLt& cublaslt() {
  static const CublasLt functions = load();
  return functions;
}

}  // namespace accrete::kernels
