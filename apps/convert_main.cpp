// convert: a trained model as a folder that other libraries load.
#include <cstdio>

#include "apps/program.h"
#include "data/tokenizer.h"
#include "engine/core/config.h"
#include "engine/core/file.h"
#include "models/gpt_hf.h"
#include "models/registry.h"
#include "models/vit_hf.h"
#include "models/vit_timm.h"
#include "models/volo_timm.h"
#include "models/weights.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

struct Options {
  std::string model, to, out, precision = "f32";
  bool ema = false;
  ReportOptions report;
};

// Names of classes and normalisation, where the model's folder tells them.
PictureInfo info_of(const Options& o) {
  const fs::path folder = find_picture_info(o.model);
  if (!folder.empty()) return read_picture_info(folder);
  o.report.log(
      "no folder beside the model tells the names of its classes and the mean of its pictures; written without");
  return {};
}

void write_gpt(const Options& o, const Gpt& model, DType dtype) {
  GptHfOptions options;
  options.dtype = dtype;
  std::unique_ptr<Tokenizer> tokenizer;
  if (const fs::path place = find_tokenizer(o.model); !place.empty()) {
    tokenizer = load_tokenizer(place);
    options.end_of_text = tokenizer->end_of_text();
  }
  write_gpt_hf(o.out, model, options);
  if (tokenizer) tokenizer->save(o.out, model.settings().context);
}

// Our own names and layout.
void write_npz(const Options& o, const Model& model, DType dtype) {
  check(dtype != DType::bf16, "convert", "numpy has no bf16; expected --precision f32 or f16");
  fs::create_directories(o.out);
  write_text(fs::path(o.out) / "config.json",
             Json{{"family", model.family()}, {"model", model.config()}}.dump(2) + "\n");
  save_npz(fs::path(o.out) / "model.npz", model.params(), dtype);
}

void write_foreign(const Options& o, const Model& model, DType dtype) {
  const bool hf = o.to == "hf";
  if (const auto* gpt = dynamic_cast<const Gpt*>(&model)) {
    check(hf, "convert", "timm has no ", model.family(), " models; expected --to hf");
    write_gpt(o, *gpt, dtype);
  } else if (const auto* volo = dynamic_cast<const Volo*>(&model)) {
    check(!hf, "convert", "transformers has no ", model.family(), " models; expected --to timm");
    write_volo_timm(o.out, *volo, info_of(o), dtype);
  } else {
    const auto& vit = dynamic_cast<const Vit&>(model);
    hf ? write_vit_hf(o.out, vit, info_of(o), dtype) : write_vit_timm(o.out, vit, info_of(o), dtype);
  }
}

void convert(const Options& o) {
  check(!fs::exists(o.out) || (fs::is_directory(o.out) && fs::is_empty(o.out)), "convert", "--out ", o.out,
        " is there already and not an empty folder; expected a new one");
  const auto model = load_model(o.model, DType::f32, kCpu);
  if (o.ema) load_averaged(*model, o.model);
  const DType dtype = compute_type(o.precision);
  if (o.to == "npz")
    write_npz(o, *model, dtype);
  else
    write_foreign(o, *model, dtype);
  if (o.report.json) {
    const Json result = {{"out", o.out},
                         {"to", o.to},
                         {"family", model->family()},
                         {"parameters", model->params().parameter_count()},
                         {"precision", o.precision}};
    std::printf("%s\n", result.dump(2).c_str());
  }
  const char* whose = o.to == "hf" ? "transformers" : o.to == "timm" ? "timm" : "numpy";
  o.report.log(model->family() + " model for " + whose + " in " + o.out);
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Writes a model as a folder that other libraries load; every program here reads them too.", "convert");
  app.add_option("MODEL", o.model,
                 "Run folder (its newest finished checkpoint), checkpoint, folder or weight file of transformers or "
                 "timm, model of llm.c")
      ->required();
  app.add_option("--to", o.to,
                 "hf: Hugging Face transformers (GPT-2, ViT, DeiT); timm: ViT, DeiT, VOLO; npz: arrays of numpy, any "
                 "model, in our own names and layout")
      ->required()
      ->check(CLI::IsMember({"hf", "timm", "npz"}));
  app.add_option("--out", o.out, "Folder for the result; made when it does not exist")->required();
  app.add_flag("--ema", o.ema, "The averaged weights of a run or checkpoint (default: off)");
  app.add_option("--precision", o.precision, "Number type of the stored weights: f32, bf16 or f16")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->capture_default_str();
  add_report_options(app, o.report);
  return run_program(app, argc, argv, [&] { convert(o); });
}
