#include "apps/experiment.h"

#include <iostream>

#include "engine/core/error.h"

namespace accrete {

Experiment::Experiment(const std::string& name, const std::string& what) : options(what, name) {
  options.add_option("--out", out, "Folder for results (default: none are kept)");
  add_device_option(options, device_name_);
  options.add_option("--seed", seed, "Address of all random numbers")->capture_default_str();
  add_threads_option(options, threads_);
  add_report_options(options, report);
}

int Experiment::run(int argc, char** argv, const std::function<void()>& body) {
  return run_program(options, argc, argv, [&] {
    set_threads(threads_);
    device = parse_device(device_name_);
    if (!out.empty()) {
      std::error_code error;
      std::filesystem::create_directories(out, error);
      check(!error, "options", "cannot make the folder ", out.string(), ": ", error.message());
    }
    body();
  });
}

void Experiment::result(const Json& values) const {
  if (report.json) {
    std::cout << values.dump() << "\n";
    return;
  }
  for (const auto& [key, value] : values.items())
    std::cout << key << " " << (value.is_string() ? value.get<std::string>() : value.dump()) << "\n";
}

}  // namespace accrete
