// What train_gpt and its siblings share: options, the run folder, resuming, --dry-run.
#pragma once

#include "apps/family.h"

namespace accrete {

// The whole program; returns its exit code.
int run_train_program(int argc, char** argv, const Family& family);

}  // namespace accrete
