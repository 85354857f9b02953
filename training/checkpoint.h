// Checkpoints: RUN/ckpt/NNNNNNNN/{params,optim,ema}.safetensors, state.json and, last, an empty COMPLETE.
//
// Written into a folder with a temporary name, flushed, renamed: a checkpoint is whole or absent, whatever kills the
// process. Tensors are whole, f32, and carry the names of the parameters; optimizer state is "m.<name>", "v.<name>",
// ...
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/core/batch.h"
#include "engine/core/config.h"
#include "engine/nn/params.h"
#include "training/optimizer.h"

namespace accrete {

// Writes RUN/ckpt/<step>; a disk that fills up leaves earlier checkpoints untouched and removes what was begun.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, int64_t step, const ParamStore& store,
                                      const Optimizer& optimizer, const Json& state);

// Complete checkpoints of a run, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);
// state.json of a checkpoint.
Json read_checkpoint_state(const std::filesystem::path& checkpoint);

// Fills the store (and the optimizer, when given) from a checkpoint. Missing, extra and mis-shaped tensors are listed
// in one message.
void load_params(const std::filesystem::path& file, ParamStore& store);
void load_checkpoint(const std::filesystem::path& checkpoint, ParamStore& store, Optimizer* optimizer);

// Removes all but the newest `keep_last` complete checkpoints and `best` (may be empty), and what unfinished saves left
// behind.
void prune_checkpoints(const std::filesystem::path& run, int64_t keep_last, const std::string& best);

// Writes inputs and targets of a batch: what the NaN guard leaves behind.
void keep_batch(const std::filesystem::path& file, const Batch& batch);

// SHA-256 of all values in order of the entries: the identity of a trained model.
std::string checksum(const ParamStore& store);

}  // namespace accrete
