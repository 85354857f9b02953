// Model files of llm.c (gpt2_124M.bin and its relatives).
//
//   256 x i32   magic 20240326; version 3 (f32) or 5 (bf16); context, vocabulary, blocks, heads, width, padded
//   vocabulary values      each tensor for all blocks together; matrices (out, in), as ours; token embedding with rows
//   of padding
#pragma once

#include <filesystem>
#include <memory>

#include "models/gpt.h"

namespace accrete {

// True for a file that begins with the magic number.
bool is_llmc_model(const std::filesystem::path& path);

// Reads it, without the padding of the vocabulary. Sizes are checked against the length of the file before anything is
// allocated.
std::unique_ptr<Gpt> read_llmc(const std::filesystem::path& path, DType compute, Device device);

}  // namespace accrete
