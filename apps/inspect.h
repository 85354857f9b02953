// What `inspect` shows. Each function prints a table, or JSON on stdout.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/family.h"
#include "apps/one_step.h"

namespace accrete {

// MODEL, or a recipe (.json), whose fresh weights are looked at. With two, what differs between them.
void inspect_params(const std::vector<std::string>& models, const std::vector<std::string>& overrides, bool json);

// One training step of every stage on the dry device: segments, layers, and the micro-batch that fits into `limit`
// bytes.
void inspect_memory(const Recipe& recipe, const Family& family, int64_t limit, bool json);

// The op table, each row really run on every device of this build.
void inspect_ops(bool json);

// All checkpoints of a run, or one.
void inspect_checkpoint(const std::filesystem::path& path, bool json);

struct GraphOptions {
  std::filesystem::path out;  // .html, .dot or .json
  int64_t rows = 0;           // sequences; 0: the micro-batch of the recipe
  int64_t length = 0;         // tokens; 0: of the recipe
  int repeats = 3;            // the shortest time of each op counts
  bool json = false;
};
// Runs training steps, writes the graph of one and prints where its time goes.
void inspect_graph(Recipe recipe, const Family& family, Device device, const GraphOptions& options);

struct KernelOptions {
  std::string name;      // of a ladder; empty: lists them
  bool emulate = false;  // run the steps under the block emulator
  int step = 0;          // 0: all
  bool trace = false;    // also what the first block does, in order
  bool json = false;
};
// The ladders of kernels (kernels/ladder/README.md): their steps, what each asks of memory, and, emulated, its
// launches, shared arrays, barriers and error.
void inspect_kernel(const KernelOptions& options);

// The page of a graph (graph_json with "step" and "floors" added) as self-contained HTML.
std::string graph_page(const Json& graph);

// "(64, 384)"
std::string text_of(const Shape& shape);

}  // namespace accrete
