// What all programs share: common options and the way they end.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace accrete {

struct ReportOptions {
  bool json = false;   // result as JSON on stdout
  bool quiet = false;  // no progress on stderr
  // A line on stderr, unless quiet.
  void log(const std::string& line) const;
};
void add_report_options(CLI::App& app, ReportOptions& options);
// --device, read by parse_device.
void add_device_option(CLI::App& app, std::string& device);
// --threads; the default is the number of threads of the machine.
void add_threads_option(CLI::App& app, int& threads);

// Parses the command line and runs `body`. Returns the exit code of the program: 0 on success and for --help; 1 with
// one line on stderr, "NAME: what is wrong", for bad input of any kind.
int run_program(CLI::App& app, int argc, char** argv, const std::function<void()>& body);

}  // namespace accrete
