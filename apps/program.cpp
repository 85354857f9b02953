#include "apps/program.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <new>
#include <thread>

#include "engine/core/error.h"

namespace accrete {
namespace {

// GCC's OpenMP lets waiting threads spin for milliseconds. On a machine that has other work too, they take the
// processor from the very thread they wait for: a tiny training run took 31 s instead of 2 s at a load of 12 on two
// cores, and 3000 rounds (some 40 us) cost nothing there. The runtime reads the setting before main begins, so the
// program starts itself once more, as the same process.
void restart_with_short_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;  // also: we are the second start
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error || setenv("GOMP_SPINCOUNT", "3000", 1) != 0) return;
  execv(self.c_str(), argv);  // returns only on failure; then all goes on as it was
}

}  // namespace

void ReportOptions::log(const std::string& line) const {
  if (!quiet) std::cerr << line << std::endl;
}

void add_report_options(CLI::App& app, ReportOptions& options) {
  app.add_flag("--json", options.json, "Print the result as JSON on stdout (default: off)");
  app.add_flag("--quiet", options.quiet, "No progress on stderr (default: off)");
}

void add_device_option(CLI::App& app, std::string& device) {
  app.add_option(
         "--device", device,
         "cpu, cuda, cuda:N, emu (the CUDA kernels under the block emulator, slow), or auto: the first GPU where "
         "there is one, else cpu")
      ->capture_default_str();
}

void add_threads_option(CLI::App& app, int& threads) {
  threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  app.add_option("--threads", threads, "Threads to use; changes the time, never the result")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
}

int run_program(CLI::App& app, int argc, char** argv, const std::function<void()>& body) {
  restart_with_short_spinning(argv);
  const auto complain = [&](std::string what) {
    std::replace(what.begin(), what.end(), '\n', ' ');
    std::cerr << app.get_name() << ": " << what << std::endl;
    return 1;
  };
  try {
    app.parse(argc, argv);
    body();
    std::cout.flush();
    if (!std::cout) return complain("cannot write the result to stdout");
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return complain(std::string(error.what()) + "; see --help");
  } catch (const Error& error) {
    return complain(error.what());
  } catch (const std::bad_alloc&) {
    return complain("out of memory");
  } catch (const std::exception& error) {
    return complain(std::string("internal error: ") + error.what());
  }
}

}  // namespace accrete
