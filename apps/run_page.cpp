#include "apps/run_page.h"

#include "training/report.h"

namespace accrete {

void write_run_page(const std::filesystem::path& run) { write_report(run / "report.html", {load_run(run)}); }

}  // namespace accrete
