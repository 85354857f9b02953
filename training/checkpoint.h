// Checkpoints: folders with {params,optim,ema}.safetensors, state.json and, last, an empty COMPLETE.
//   RUN/ckpt/NNNNNNNN   at optimizer step NNNNNNNN, to continue from
//   RUN/stages/NN       the end of stage NN, where a later stage of the plan needs its weights
//
// Written into a folder with a temporary name, flushed, renamed: a checkpoint is whole or absent, whatever kills the
// process. Tensors are whole, f32, and carry the names of the parameters; optimizer state is "m.<name>", "v.<name>",
// ..., its plain numbers are f64 vectors.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/core/batch.h"
#include "engine/core/config.h"
#include "engine/nn/params.h"
#include "training/stepper.h"

namespace accrete {

// The names above.
std::filesystem::path checkpoint_folder(const std::filesystem::path& run, int64_t step);
std::filesystem::path stage_folder(const std::filesystem::path& run, int stage);
// RUN/snapshots/<stage>/<i>.safetensors: weights on the way (Stage::collect).
std::filesystem::path snapshot_file(const std::filesystem::path& run, int stage, int i);

// Writes a checkpoint unless a complete one is there; a disk that fills up leaves earlier checkpoints untouched and
// removes what was begun.
void save_checkpoint(const std::filesystem::path& folder, const ParamStore& store, const Stepper& stepper,
                     const Json& state);

// Complete checkpoints of a run, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);
// state.json of a checkpoint.
Json read_checkpoint_state(const std::filesystem::path& checkpoint);

// Fills the store and the stepper from a checkpoint. Missing, extra and mis-shaped tensors are listed in one message.
void load_checkpoint(const std::filesystem::path& checkpoint, ParamStore& store, Stepper& stepper);

// One file with the tensors "<prefix><name>" of a flat f32 buffer, f32; and back, exactly.
void save_flat(const std::filesystem::path& file, const std::vector<ParamEntry>& entries, const Tensor& flat);
void load_flat(const std::filesystem::path& file, const std::vector<ParamEntry>& entries, const Tensor& flat);

// Removes all but the newest `keep_last` complete checkpoints and `best` (may be empty), and what unfinished saves left
// behind.
void prune_checkpoints(const std::filesystem::path& run, int64_t keep_last, const std::string& best);

// Writes inputs and targets of a batch: what the NaN guard leaves behind.
void keep_batch(const std::filesystem::path& file, const Batch& batch);

// SHA-256 of all values in order of the entries: the identity of a trained model.
std::string checksum(const ParamStore& store);

}  // namespace accrete
