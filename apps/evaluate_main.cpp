// evaluate: how good a model is on a split of a data set.
#include "apps/evaluate.h"
#include "models/registry.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

void evaluate(EvaluateOptions o) {
  set_threads(o.threads);
  set_tf32(o.precision == "tf32");
  const Device device = parse_device(o.device);
  check(fs::exists(o.data), "evaluate", "--data ", o.data, " does not exist");
  const auto model = load_model(o.model, compute_type(o.precision), device);
  if (o.ema) load_averaged(*model, o.model);
  const bool pictures = model->task() == Task::classes;
  if (o.task.empty()) o.task = pictures ? "top1" : "perplexity";
  check(o.task == "loss" || (o.task == "top1") == pictures, "evaluate", "a model of family \"", model->family(),
        "\" has no task \"", o.task, "\"; expected loss or ", pictures ? "top1" : "perplexity");
  if (pictures)
    evaluate_pictures(o, *model);
  else
    evaluate_text(o, *model);
}

}  // namespace

int main(int argc, char** argv) {
  EvaluateOptions o;
  CLI::App app("Measures how good a model is on a split of a data set.", "evaluate");
  app.add_option("model", o.model, "Run folder, checkpoint, or Hugging Face model folder or file")->required();
  app.add_option(
         "--data", o.data,
         "Texts: folder made by `prepare text`, token files of nanoGPT or llm.c, or a bare file of ids (ids.bin). "
         "Pictures: class folders, shards made by `prepare images`, CIFAR binaries, IDX files")
      ->required();
  app.add_option("--split", o.split, "Split of a folder: train, valid or test")
      ->check(CLI::IsMember({"train", "valid", "test"}))
      ->capture_default_str();
  app.add_option(
         "--task", o.task,
         "loss: nats per token or picture; perplexity: also per word, and bits per byte; top1: also top-5 and by "
         "class (default: perplexity for texts, top1 for pictures)")
      ->check(CLI::IsMember({"loss", "perplexity", "top1"}));
  app.add_option("--length", o.length, "Texts: tokens of a window; 0: the model's context")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option(
         "--stride", o.stride,
         "Texts: distance of windows in tokens; 0: the length. Smaller: windows overlap and every token is predicted "
         "from at least length - stride others. The Hugging Face perplexity guide with maximal length M and "
         "stride S is --length M-1 --stride S")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--batch", o.batch,
                 "Windows or pictures computed at once; 0: chosen for 256 MiB of logits, 64 pictures")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--batches", o.batches, "Stop after so many batches; 0: the whole split")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--resolution", o.resolution, "Pictures: side in pixels; 0: that of the model")
      ->check(CLI::Range(0, 1 << 14))
      ->capture_default_str();
  app.add_option(
         "--crop-pct", o.crop_pct,
         "Pictures: side of the centre crop as a share of the resized shorter side; 0: as the model's folder says, "
         "else 0.875")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  app.add_flag("--per-class", o.per_class, "Pictures: also a line for every class (default: off)");
  app.add_option("--confusion", o.confusion,
                 "Pictures: file (.csv) for the matrix of true classes (rows) and predicted ones (columns)");
  app.add_flag("--ema", o.ema, "Evaluate the averaged weights of a run or checkpoint (default: off)");
  app.add_option("--precision", o.precision, "f32, tf32, bf16 or f16, of activations and products")
      ->check(CLI::IsMember({"f32", "tf32", "bf16", "f16"}))
      ->capture_default_str();
  add_device_option(app, o.device);
  add_threads_option(app, o.threads);
  add_report_options(app, o.report);
  return run_program(app, argc, argv, [&] { evaluate(o); });
}
