// train_vit: ViT, DeiT and VOLO on pictures.
#include "apps/train_program.h"
#include "apps/vit_family.h"

int main(int argc, char** argv) { return accrete::run_train_program(argc, argv, accrete::vit_family()); }
