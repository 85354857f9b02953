// Weights in and out of files: names, layouts and number types of other libraries against the entries of a ParamStore.
//
// A family describes its files by one table (TensorName per parameter); checking, reading and writing are loops over
// it. Loading is exact or loud: every missing, surplus and mis-shaped tensor is named in one message.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/safetensors.h"
#include "engine/nn/params.h"

namespace accrete {

// One stored tensor and the parameter that holds its numbers. `shape` is that of its numbers in ours:
//   the whole parameter                  {"wte.weight", "tokens.weight", Shape{V, C}}
//   its transpose                        {"c_fc.weight", "fc1.weight", Shape{F, C}, true}         stored (C, F)
//   rows of it, from row first_row on    {"key.weight", "qkv.weight", Shape{C, C}, false, C}      rows C .. 2C-1
//   other axes, same order of numbers    {"cls_token", "cls_token", Shape{1, C}, false, 0, Shape{1, 1, C}}
//   a convolution                        {"proj.weight", "proj.weight", Shape{O, k*k*C}, .kernel = k}  stored (O, C, k,
//   k)
// A parameter that is stored in parts (query, key and value of a fused projection) has one row of the table for each.
struct TensorName {
  std::string theirs, ours;
  Shape shape;
  bool transposed = false;
  int64_t first_row = 0;
  std::optional<Shape> stored;
  int64_t kernel = 0;  // side of a convolution's; our columns are in the order (row, column, channel)

  Shape stored_shape() const;
};

// For models of pictures.
struct LoadOptions {
  int64_t reset_head = 0;  // classes of a new, random classifier in place of the stored one; 0: the stored one
  uint64_t seed = 1;       // of the new classifier
};
// Tensors of a file by the name that the family's table uses (prefixes removed, buffers left out).
using FoundTensors = std::map<std::string, SafetensorsEntry, std::less<>>;

// Removes the wrappers that training scripts put in front of every name: "module.", "_orig_mod.", in any order.
std::string_view without_wrappers(std::string_view name);

// Adds a tensor to `found`; Error when two names of the file mean the same tensor.
void add_found(FoundTensors& found, std::string_view name, const SafetensorsEntry& entry, std::string_view where);

// Error that lists all missing, surplus and mis-shaped tensors, with the nearest names. Reads no values.
void check_tensors(const std::vector<TensorName>& wanted, const FoundTensors& found, std::string_view where);

// Values of F64, F32, F16 or BF16 as f32, row-major in our shape; Error for other types.
std::vector<float> values_of(const SafetensorsEntry& entry, bool transposed = false);
// The same from the layout that the table's row describes.
std::vector<float> values_of(const SafetensorsEntry& entry, const TensorName& name);

// Sets the parameters that the table names and refreshes the store. check_tensors comes first. The rows of the table
// that name one parameter must hold all of it.
void load_tensors(ParamStore& store, const std::vector<TensorName>& wanted, const FoundTensors& found);

// Writes the parameters that the table names, in its names, shapes and layout, as f32, bf16 or f16. A parameter may be
// written in part (a vocabulary padded for speed). Rows of the table whose `ours` is empty are written as zeros.
// Streams: one tensor at a time is in memory twice.
void save_tensors(const std::filesystem::path& path, const ParamStore& store, const std::vector<TensorName>& table,
                  DType dtype, const TextMap& metadata = kPytorchMetadata);

// The table of our own files: same names, same layout.
std::vector<TensorName> own_names(const ParamStore& store);

// Reads a file in our own names ("blocks.3.attn.qkv.weight"): safetensors, or numpy's npz by its ending.
void load_own(ParamStore& store, const std::filesystem::path& path);

// The weights in our names and layout as arrays of numpy, f32 or f16.
void save_npz(const std::filesystem::path& path, const ParamStore& store, DType dtype);

}  // namespace accrete
