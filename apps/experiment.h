// A user's own experiment: one source file, accrete_experiment(my_idea my_idea.cpp) in CMake, one self-contained
// program with the options that all programs have. See apps/examples/.
//
//   int main(int argc, char** argv) {
//     Experiment e("my_idea", "What it tries.");
//     int64_t steps = 1000;
//     e.options.add_option("--steps", steps, "Optimizer steps")->capture_default_str();
//     return e.run(argc, argv, [&] { ... e.seed, e.device ...; e.result({{"loss", loss}}); });
//   }
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>

#include "apps/program.h"
#include "engine/core/config.h"
#include "engine/core/device.h"

namespace accrete {

class Experiment {
 public:
  Experiment(const std::string& name, const std::string& what);

  CLI::App options;           // the common options; add your own before run()
  std::filesystem::path out;  // --out: folder for results, made before the body runs; empty: none was named
  Device device;              // --device
  uint64_t seed = 1;          // --seed
  ReportOptions report;       // --json, --quiet; report.log() writes a line to stderr

  // The whole program: parses, sets the threads, runs the body; returns the exit code (see run_program).
  int run(int argc, char** argv, const std::function<void()>& body);
  // The outcome on stdout: one line of JSON with --json, otherwise one "key value" a line.
  void result(const Json& values) const;

 private:
  std::string device_name_ = "auto";
  int threads_ = 1;
};

}  // namespace accrete
