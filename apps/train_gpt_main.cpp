// train_gpt: GPT pre-training on token files.
#include "apps/gpt_family.h"
#include "apps/train_program.h"

int main(int argc, char** argv) { return accrete::run_train_program(argc, argv, accrete::gpt_family()); }
