// RUN/report.html from what the run folder holds.
#pragma once

#include <filesystem>

namespace accrete {

void write_run_page(const std::filesystem::path& run);

}  // namespace accrete
