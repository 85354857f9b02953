// inspect: what is inside a model, a run, a training step, the engine.
#include "apps/families.h"
#include "apps/inspect.h"
#include "apps/program.h"
#include "engine/core/memory.h"

using namespace accrete;

int main(int argc, char** argv) {
  CLI::App app("Shows what is inside.", "inspect");
  app.require_subcommand(1);
  app.set_help_flag();
  app.set_help_all_flag("-h,--help", "Print every command and option and exit");
  ReportOptions report;
  int threads = 1;
  std::string device = "cpu", recipe_path, path;
  std::vector<std::string> names, overrides;
  GraphOptions graph;
  const auto json = [&](CLI::App* sub) {
    sub->add_flag("--json", report.json, "Print the result as JSON on stdout (default: off)");
    return sub;
  };
  const auto recipe = [&](CLI::App* sub) {
    sub->add_option("recipe", recipe_path, "Recipe (JSON), or run folder")->required();
    sub->add_option("overrides", overrides, "Settings that replace those of the recipe: key.path=value ...");
    return sub;
  };

  CLI::App* params =
      json(app.add_subcommand("params", "Names, shapes, axes, statistics and histograms of all weights"));
  params
      ->add_option("models", names,
                   "MODEL (run, checkpoint, Hugging Face folder) or RECIPE (fresh weights); a second one is compared "
                   "with the first; key=value replaces settings of a recipe")
      ->required();

  CLI::App* memory =
      json(recipe(app.add_subcommand("memory", "Memory of a training step, predicted: segments, layers, what fits")));
  int64_t limit_mib = 0;
  memory->add_option("--limit", limit_mib, "Memory that may be used, in MiB; 0: what the device has available")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_device_option(*memory, device);

  CLI::App* ops = json(app.add_subcommand("ops", "Every op by device, number type and gradient"));
  add_threads_option(*ops, threads);

  CLI::App* g = json(recipe(app.add_subcommand(
      "graph", "One training step, really run: modules, shapes, times, FLOPs, bytes, saved tensors")));
  g->add_option("--out", graph.out, "File for the graph: .html, .dot (Graphviz) or .json")->required();
  g->add_option("--batch", graph.rows, "Sequences or pictures; 0: the micro-batch of the recipe")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  g->add_option("--length", graph.length, "Texts: tokens of a sequence; 0: of the recipe")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  g->add_option("--repeats", graph.repeats, "Steps to time; the shortest time of each op counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_device_option(*g, device);
  add_threads_option(*g, threads);

  KernelOptions kernel;
  CLI::App* k = json(app.add_subcommand("kernel", "The ladders of GPU kernels, and a run of each under the emulator"));
  k->add_option("name", kernel.name, "Ladder; without it all are listed");
  k->add_flag("--emulate", kernel.emulate,
              "Run the steps under the block emulator: launches, shared memory, barriers, errors (default: off)");
  k->add_option("--step", kernel.step, "Step to show; 0: all")->check(CLI::NonNegativeNumber)->capture_default_str();
  k->add_flag("--trace", kernel.trace, "With --emulate: what the first block does, in order (default: off)");

  CLI::App* checkpoint = json(app.add_subcommand("checkpoint", "Checkpoints of a run: step, stage, cost, files"));
  checkpoint->add_option("path", path, "Run folder or one checkpoint")->required();

  return run_program(app, argc, argv, [&] {
    set_threads(threads);
    if (params->parsed()) {
      std::vector<std::string> models;
      for (const std::string& name : names) (name.find('=') == std::string::npos ? models : overrides).push_back(name);
      check(models.size() == 1 || models.size() == 2, "inspect", "expected one or two models; got ", models.size());
      inspect_params(models, overrides, report.json);
    }
    if (memory->parsed()) {
      const Family family = family_of_recipe(recipe_path, overrides);
      inspect_memory(load_recipe(recipe_path, overrides, std::nullopt, family), family,
                     limit_mib > 0 ? limit_mib << 20 : memory_limit(parse_device(device)), report.json);
    }
    if (ops->parsed()) inspect_ops(report.json);
    if (g->parsed()) {
      graph.json = report.json;
      const Family family = family_of_recipe(recipe_path, overrides);
      inspect_graph(load_recipe(recipe_path, overrides, std::nullopt, family), family, parse_device(device), graph);
    }
    if (k->parsed()) {
      kernel.json = report.json;
      inspect_kernel(kernel);
    }
    if (checkpoint->parsed()) inspect_checkpoint(path, report.json);
  });
}
