// The recipe: everything that defines a run, as plain structs. A recipe file names what differs from the defaults; the
// resolved whole is written into RUN/config.json.
#pragma once

#include <string>

#include "data/image_config.h"
#include "engine/core/config.h"
#include "engine/nn/distill.h"
#include "training/loss_scale.h"
#include "training/optimizer.h"
#include "training/schedule.h"

namespace accrete {

// `length` belongs to texts; resolution, crop_resolution, images and augment to pictures. A family refuses what is not
// for its data.
struct DataConfig {
  std::string path;
  int64_t length = 256;
  int64_t resolution = 0, crop_resolution = 0;
  ImageConfig images;
  AugmentConfig augment;
  std::string sampling = "shuffled";
  int64_t loader_threads = 1;
  double holdout = 0;

  bool pictures() const { return resolution > 0; }

  template <class V>
  void fields(V& v) {
    v("path", path,
      "text: folder made by `prepare text`, or token files of nanoGPT or llm.c. Pictures: class folders "
      "(train/CLASS/*, "
      "val/CLASS/*), shards made by `prepare images`, CIFAR binaries, IDX files");
    v("length", length, "text: tokens of a training sequence", between(1, 1 << 24));
    v("resolution", resolution, "pictures: their side in pixels; 0: the model's image_size", between(0, 1 << 14));
    v("crop_resolution", crop_resolution,
      "pictures: side of the crops, which the model resizes to `resolution`; 0: as resolution", between(0, 1 << 14));
    v("images", images, "pictures: how they are read, and the evaluation");
    v("augment", augment, "pictures: augmentation of the training split");
    v("sampling", sampling, "order of training samples", one_of("shuffled", "random", "sequential"));
    v("loader_threads", loader_threads, "threads that prepare batches ahead; 0: none", between(0, 256));
    v("holdout", holdout,
      "share of the training data (of texts its end, of pictures any) kept out of training: the split \"held_out\"",
      between(0, 0.5));
  }
};

struct BatchConfig {
  int64_t size = 32;
  int64_t micro = 0;

  template <class V>
  void fields(V& v) {
    v("size", size, "sequences (or images) of one optimizer step", between(1, 1 << 24));
    v("micro", micro, "sequences processed at once; gradients of size / micro pieces are accumulated; 0: size",
      between(0, 1 << 24));
  }
  int64_t micro_size() const { return micro > 0 ? micro : size; }
};

struct EvalConfig {
  std::string every = "0.1run";
  std::string split = "valid";
  int64_t batches = 0;
  int64_t batch = 0;

  template <class V>
  void fields(V& v) {
    v("every", every, "evaluation interval, a duration; 0st: only at the end of a stage");
    v("split", split, "split that is evaluated", one_of("train", "valid", "test", "held_out"));
    v("batches", batches, "largest number of batches of one evaluation; 0: the whole split", at_least(0));
    v("batch", batch, "sequences of one evaluation batch; 0: as in training", at_least(0));
  }
};

struct CheckpointConfig {
  std::string every = "0.1run";
  int64_t keep_last = 2;
  bool keep_best = true;

  template <class V>
  void fields(V& v) {
    v("every", every, "checkpoint interval, a duration; 0st: only at the end of a stage");
    v("keep_last", keep_last, "how many of the newest checkpoints are kept", between(1, 1000000));
    v("keep_best", keep_best, "also keep the checkpoint with the lowest evaluated loss (pictures: the highest top-1)");
  }
};

// Weights to begin with, instead of random ones.
struct InitConfig {
  std::string from;
  bool reset_head = false;
  std::string trains = "all";

  template <class V>
  void fields(V& v) {
    v("from", from,
      "model whose weights the training begins with: run folder, checkpoint or model folder; empty: random. Positions "
      "are resampled for another image_size");
    v("reset_head", reset_head, "draw the output layer anew, as for other classes");
    v("trains", trains, "all parameters, or the output layer alone (linear probe)", one_of("all", "head"));
  }
};

struct Recipe {
  std::string target, status;
  std::string family = "gpt";
  Json model = Json::object();
  InitConfig init;
  DistillConfig distill;
  DataConfig data;
  BatchConfig batch;
  OptimConfig optim;
  ScheduleConfig schedule;
  std::string duration = "1ep";
  std::string precision = "bf16";
  LossScaleConfig loss_scale;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  Json plan = Json{{"name", "plain"}};
  int64_t seed = 1;
  bool recompute = false;
  bool plain_ops = false;

  template <class V>
  void fields(V& v) {
    v("target", target, "what the recipe reaches, and where that number comes from (for readers)");
    v("status", status, "of the target: measured by us, or not run here (for readers)",
      one_of("", "measured", "not run"));
    v("family", family, "model family", one_of("gpt", "vit", "volo"));
    v("model", model,
      "model settings; \"preset\" starts from a published size (gpt2, gpt2-medium, gpt2-large, gpt2-xl; vit-tiny, "
      "vit-small, vit-base, vit-large, vit-huge; deit-tiny, deit-small, deit-base, each also -distilled; deit3-small, "
      "deit3-medium, deit3-base, deit3-large, deit3-huge; volo-d1 to volo-d5)");
    v("init", init, "weights to begin with");
    v("distill", distill, "pictures: a teacher");
    v("data", data, "training data");
    v("batch", batch, "batch sizes");
    v("optim", optim, "optimizer");
    v("schedule", schedule, "learning-rate schedule");
    v("duration", duration, "length of the training: 3ep, 5000st, 2e9tok");
    v("precision", precision,
      "activations and products; master weights are always f32. tf32: f32 whose products may round, on a GPU",
      one_of("bf16", "f16", "tf32", "f32"));
    v("loss_scale", loss_scale, "precision f16: what the loss is multiplied by before backward");
    v("eval", eval, "evaluation during training");
    v("checkpoint", checkpoint, "checkpoints");
    v("plan", plan, "how the training is cut into stages");
    v("seed", seed, "address of all random numbers of the run", at_least(0));
    v("recompute", recompute,
      "blocks keep only their input and run again in backward: less memory, a third more FLOPs");
    v("plain_ops", plain_ops, "replace fused ops by their plain compositions (slow; for teaching and checking)");
  }
};

}  // namespace accrete
