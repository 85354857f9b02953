// GPT on token files, for train_gpt, inspect and bench.
#pragma once

#include "apps/family.h"

namespace accrete {

Family gpt_family();

}  // namespace accrete
