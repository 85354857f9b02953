// bench: speed, with what the machine can do measured in the same run.
#include "apps/bench.h"
#include "apps/program.h"
#include "engine/core/error.h"

using namespace accrete;

int main(int argc, char** argv) {
  CLI::App app("Measures speed and prints the machine's measured ceilings beside it.", "bench");
  app.require_subcommand(1);
  app.set_help_flag();
  app.set_help_all_flag("-h,--help", "Print every command and option and exit");
  BenchOptions options;
  ReportOptions report;
  int threads = 1;
  const auto common = [&](CLI::App* sub) {
    add_threads_option(*sub, threads);
    add_report_options(*sub, report);
    return sub;
  };
  const auto timed = [&](CLI::App* sub) {
    sub->add_option("--seconds", options.seconds, "Time to spend on each figure, in seconds")
        ->check(CLI::Range(0.001, 3600.0))
        ->capture_default_str();
    return common(sub);
  };
  std::string device = "auto";
  const CLI::Range size(int64_t{1}, int64_t{1} << 24), size_or_default(int64_t{0}, int64_t{1} << 24);

  GemmBench gemm;
  CLI::App* g = timed(app.add_subcommand("gemm", "Matrix products of a GPT step: y, dx, dw, f32 and bf16"));
  add_device_option(*g, device);
  g->add_option("--tokens", gemm.tokens, "Rows: batch x length")->check(size)->capture_default_str();
  g->add_option("--embed-dim", gemm.embed_dim, "Width of the model")->check(size)->capture_default_str();
  g->add_option("--vocab", gemm.vocab_size, "Tokens of the output layer")->check(size)->capture_default_str();

  std::string only;
  CLI::App* op = timed(app.add_subcommand("ops", "Every op of the op table, forward and backward, f32 and bf16"));
  add_device_option(*op, device);
  int64_t rows = 0;
  op->add_option("--tokens", rows,
                 "Rows of activations on a GPU, a multiple of 1024; 0: 65536 there. On the CPU always 1024")
      ->check(size_or_default)
      ->capture_default_str();
  op->add_option("--only", only, "Only ops with this in their name (default: all)");

  StepBench step;
  CLI::App* st = common(app.add_subcommand("step", "Whole training steps of a published model on random data"));
  add_device_option(*st, device);
  st->add_option("--model", step.model,
                 "gpt2, gpt2-medium, gpt2-large, gpt2-xl; vit-tiny .. vit-huge, deit-tiny, deit-small, deit-base; "
                 "volo-d1 .. volo-d5")
      ->capture_default_str();
  st->add_option("--batch", step.batch, "Sequences or pictures of a step")->check(size)->capture_default_str();
  st->add_option("--length", step.length, "Texts: tokens of a sequence")->check(size)->capture_default_str();
  st->add_option("--precision", step.precision, "f32, tf32, bf16 or f16 (master weights stay f32)")
      ->check(CLI::IsMember({"f32", "tf32", "bf16", "f16"}))
      ->capture_default_str();
  st->add_option("--depth", step.depth, "Blocks; 0: of the model")->check(size_or_default)->capture_default_str();
  st->add_option("--embed-dim", step.embed_dim, "Width; 0: of the model")
      ->check(size_or_default)
      ->capture_default_str();
  st->add_option("--num-heads", step.num_heads, "Attention heads; 0: of the model")
      ->check(size_or_default)
      ->capture_default_str();
  st->add_option("--vocab", step.vocab_size, "Texts: token ids; 0: of the model")
      ->check(size_or_default)
      ->capture_default_str();
  st->add_option("--resolution", step.resolution, "Pictures: side in pixels; 0: of the model")
      ->check(size_or_default)
      ->capture_default_str();
  st->add_option("--patch", step.patch, "Pictures: side of a patch; 0: of the model")
      ->check(size_or_default)
      ->capture_default_str();
  st->add_option("--classes", step.classes, "Pictures: classes; 0: of the model")
      ->check(size_or_default)
      ->capture_default_str();
  st->add_option("--steps", step.steps, "Measured steps; the median counts")->check(size)->capture_default_str();
  st->add_option("--warmup", step.warmup, "Steps before them")->check(size)->capture_default_str();
  st->add_flag("--recompute", step.recompute, "Blocks keep only their input and run again in backward (default: off)");
  st->add_flag("--eager", step.eager,
               "On a GPU: start every kernel anew instead of replaying recorded launches (default: off)");

  std::string ladder, ladder_device = "cuda";
  CLI::App* l = timed(app.add_subcommand("ladder", "Kernels from naive to tuned, on a GPU: checked, then timed"));
  l->add_option("name", ladder, "layernorm, cross_entropy, matmul, attention or adamw (default: all)");
  add_device_option(*l, ladder_device);

  std::string tokenizer, text;
  CLI::App* t = timed(app.add_subcommand("tokenizer", "Encoding and decoding a text"));
  t->add_option("--tokenizer", tokenizer, "bytes, or a folder or file with tokenizer.json or vocab.json + merges.txt")
      ->required();
  t->add_option("--in", text, "Text file, plain or .gz")->required();

  DataBench data;
  ImageBench images;
  CLI::App* d = timed(app.add_subcommand("data", "Batches of token files or of pictures, as training gets them"));
  CLI::Option* from_tokens = d->add_option("--data", data.data, "Text: folder made by `prepare text`, or token files");
  CLI::Option* from_pictures = d->add_option("--in", images.in, "Pictures: a data set, or any folder of picture files");
  from_tokens->excludes(from_pictures);
  d->add_option("--split", data.split, "Split of a folder")->capture_default_str();
  d->add_option("--length", data.length, "Text: tokens of a sequence")->check(size)->capture_default_str();
  d->add_option("--batch", data.batch, "Text: sequences of a batch")->check(size)->capture_default_str();
  d->add_option("--shards", images.shards,
                "Pictures: the same data made by `prepare images`, to compare (default: none)");
  d->add_option("--size", images.size, "Pictures: side of the samples in pixels")
      ->check(CLI::Range(1, 8192))
      ->capture_default_str();
  d->add_option("--pictures", images.pictures, "Pictures: how many take part, from the first on")
      ->check(size)
      ->capture_default_str();
  d->add_option("--loader-threads", data.loader_threads, "Threads that prepare batches ahead; 0: none")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();

  return run_program(app, argc, argv, [&] {
    set_threads(threads);
    options.json = report.json;
    report.log("measuring with " + std::to_string(threads) +
               " threads; other work on this machine disturbs the figures");
    if (g->parsed() || op->parsed() || st->parsed()) options.device = parse_device(device);
    if (g->parsed()) bench_gemm(gemm, options);
    if (op->parsed()) bench_ops(only, rows, options);
    if (st->parsed()) bench_step(step, options);
    if (l->parsed()) bench_ladder(ladder, ladder_device, options);
    if (t->parsed()) bench_tokenizer(tokenizer, text, options);
    if (!d->parsed()) return;
    check(!data.data.empty() || !images.in.empty(), "bench", "nothing to read; expected --data or --in");
    images.split = data.split, images.loader_threads = data.loader_threads;
    images.in.empty() ? bench_data(data, options) : bench_images(images, options);
  });
}
