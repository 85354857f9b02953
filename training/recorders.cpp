#include "training/recorders.h"

#include <chrono>
#include <cmath>
#include <iostream>
#include <sstream>

#include "engine/core/memory.h"

namespace accrete {
namespace {

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}
double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The costs that every event carries.
void add_cost(Json& j, const LoopView& view) {
  const Spent& s = view.state.spent;
  j["samples"] = s.samples;
  j["tokens"] = s.tokens;
  j["seconds"] = s.seconds;
  j["flops"] = s.flops;
  j["eval_flops"] = s.eval_flops;
}

Progress::Options progress_options(bool quiet, std::ostream* log) {
  Progress::Options options = terminal_options();
  options.quiet = quiet;
  options.log = log;
  return options;
}

}  // namespace

std::string note_text(const Json& note) {
  std::string text = event_text(note, "event", "note") + ":";
  for (const auto& [key, value] : note.items()) {
    if (key == "event" || value.is_structured()) continue;
    char number[32] = "";
    if (value.is_number_float()) std::snprintf(number, sizeof number, "%.4g", value.get<double>());
    text += (text.back() == ':' ? " " : ", ") + key + " ";
    text += value.is_string() ? value.get<std::string>() : *number ? number : value.dump();
  }
  return text;
}

std::string to_text(const EvalResult& r) {
  std::string text = "loss " + format_loss(r.loss);
  if (r.task != Task::classes) return text + "  perplexity " + format_loss(std::exp(r.loss));
  char shares[64];
  std::snprintf(shares, sizeof shares, "  top-1 %.2f %%  top-5 %.2f %%", 100 * r.top1, 100 * r.top5);
  return text + shares;
}

void add_measures(Json& j, const EvalResult& r, const std::string& prefix) {
  j[prefix + "loss"] = r.loss;
  if (r.task == Task::classes) {
    j[prefix + "top1"] = r.top1;
    j[prefix + "top5"] = r.top5;
  } else {
    j[prefix + "perplexity"] = std::exp(r.loss);
  }
}

std::string stage_note(const Stage& stage) {
  std::ostringstream text;
  if (stage.model.contains("depth")) text << stage.model["depth"].dump() << " blocks, ";
  if (stage.model.contains("embed_dim")) text << "width " << stage.model["embed_dim"].dump() << ", ";
  if (stage.data.pictures())
    text << stage.data.resolution << " px";
  else
    text << "length " << stage.data.length;
  return text.str();
}

MetricsRecorder::MetricsRecorder(const std::filesystem::path& run, uint64_t keep, int64_t resumed_step)
    : metrics_(run / "metrics.jsonl", keep),
      curves_(run / "tb", unix_seconds(), resumed_step > 0 ? std::optional<int64_t>(resumed_step + 1) : std::nullopt) {}

void MetricsRecorder::write(const Json& event) {
  metrics_.write(event);
  curves_.add(event, unix_seconds());
}

// What the plan decided and measured for this stage.
void MetricsRecorder::write_notes(const LoopView& view) {
  for (const Json& note : view.notes) {
    Json j = note;
    j["step"] = view.state.step;
    j["stage"] = view.state.stage;
    write(j);
  }
}

void MetricsRecorder::on(Event event, const LoopView& view) {
  Json j;
  switch (event) {
    case Event::stage_start:
      if (view.state.stage_step > 0) return;  // continued: the line is there already
      j["event"] = "stage_start";
      j["step"] = view.state.step;
      j["stage"] = view.state.stage;
      j["name"] = view.stage->name;
      j["steps"] = view.stage_steps;
      j["model"] = view.model->config();
      if (view.stage->data.pictures())
        j["resolution"] = view.stage->data.resolution;
      else
        j["length"] = view.stage->data.length;
      j["params"] = view.model->params().parameter_count();
      j["trainable"] = view.model->params().trainable_count();
      add_cost(j, view);
      write(j);
      write_notes(view);
      break;
    case Event::step_done:
      j["event"] = "step";
      j["step"] = view.state.step;
      j["stage"] = view.state.stage;
      j["loss"] = view.loss;
      j["lr"] = view.lr;
      j["grad_norm"] = view.grad_norm;  // "inf" or "nan" in a step that f16 skipped
      if (view.loss_scale > 0) j["loss_scale"] = view.loss_scale;
      add_cost(j, view);
      j["rate"] = view.tokens_per_second;
      j["data_wait"] = view.data_wait;
      j["allocations"] = view.allocations;
      write(j);
      break;
    case Event::eval:
      j["event"] = "eval";
      j["step"] = view.state.step;
      j["stage"] = view.state.stage;
      j["split"] = view.split;
      add_measures(j, view.eval);
      if (view.has_ema) add_measures(j, view.eval_ema, "ema_");
      if (view.eval_unreadable > 0) j["unreadable"] = view.eval_unreadable;
      add_cost(j, view);
      write(j);
      break;
    case Event::stage_end:
      write_notes(view);
      j["event"] = "stage_end";
      j["step"] = view.state.step;
      j["stage"] = view.state.stage;
      j["name"] = view.stage->name;
      j["steps"] = view.state.stage_step;
      add_measures(j, view.eval);
      j["peak_memory"] = view.peak_memory;
      add_cost(j, view);
      write(j);
      break;
    case Event::run_end:
      j["event"] = "run_end";
      j["step"] = view.state.step;
      j["reason"] = view.reason;
      j["split"] = view.split;
      add_measures(j, view.eval);
      j["checksum"] = view.checksum;
      j["peak_memory"] = view.peak_memory;
      add_cost(j, view);
      write(j);
      break;
    default:
      break;
  }
}

ProgressRecorder::ProgressRecorder(const std::filesystem::path& run, bool quiet, std::vector<double> stage_flops)
    : log_(run / "log.txt", std::ios::app),
      progress_(std::cerr, progress_options(quiet, &log_)),
      stage_flops_(std::move(stage_flops)) {}

void ProgressRecorder::on(Event event, const LoopView& view) {
  switch (event) {
    case Event::run_start:
      if (view.resumed) progress_.print("continuing at step " + std::to_string(view.state.step));
      break;
    case Event::stage_start: {
      std::ostringstream text;
      text << "stage " << view.state.stage + 1;
      if (view.stages > 0) text << "/" << view.stages;
      text << " \"" << view.stage->name
           << "\": " << format_count(static_cast<double>(view.model->params().parameter_count())) << " parameters, "
           << stage_note(*view.stage) << ", " << view.stage_steps << " steps";
      progress_.print(text.str());
      if (view.state.stage_step == 0)
        for (const Json& note : view.notes) progress_.print("  " + note_text(note));
      smooth_seconds_ = waited_ = 0;
      break;
    }
    case Event::stage_end:
      for (const Json& note : view.notes) progress_.print("  " + note_text(note));
      break;
    case Event::step_done: {
      smooth_seconds_ = smooth_seconds_ > 0 ? 0.9 * smooth_seconds_ + 0.1 * view.step_seconds : view.step_seconds;
      ProgressState s;
      s.step = view.state.stage_step;
      s.steps = view.stage_steps;
      s.epoch = view.steps_per_epoch > 0 ? static_cast<double>(view.state.stage_step) / view.steps_per_epoch : kUnknown;
      s.stage = view.state.stage + 1;
      s.stages = std::max(1, view.stages);
      if (view.stages != 1) s.stage_note = stage_note(*view.stage);
      s.loss = view.loss;
      s.grad_norm = view.grad_norm;
      s.lr = view.lr;
      s.step_seconds = smooth_seconds_;
      // Above 1 the ceiling was measured beside other work and says nothing: left out.
      if (view.ceiling > 0) s.peak_share = view.step_flops / smooth_seconds_ / view.ceiling;
      if (s.peak_share > 1) s.peak_share = kUnknown;
      if (view.stage->data.pictures()) s.rate_unit = "img/s";
      waited_ = smooth_seconds_ > 0 ? 0.9 * waited_ + 0.1 * view.data_wait : view.data_wait;
      s.data_share = waited_ / smooth_seconds_;
      s.rate = view.tokens_per_second * view.step_seconds / smooth_seconds_;
      s.eta_seconds = smooth_seconds_ * static_cast<double>(view.stage_steps - view.state.stage_step);
      // Later stages, where there are some, at the FLOP/s of this one.
      const bool more = view.state.stage + 1 < view.stages && static_cast<int>(stage_flops_.size()) == view.stages;
      if (more && view.step_flops > 0) {
        s.plan_eta_seconds = s.eta_seconds;
        for (size_t k = static_cast<size_t>(view.state.stage) + 1; k < stage_flops_.size(); ++k)
          s.plan_eta_seconds += stage_flops_[k] * smooth_seconds_ / view.step_flops;
      }
      progress_.update(s, steady_seconds());
      break;
    }
    case Event::eval: {
      std::ostringstream text;
      text << "step " << view.state.step << "  " << view.split << " " << to_text(view.eval);
      if (view.has_ema) text << "  (averaged weights: " << to_text(view.eval_ema) << ")";
      progress_.print(text.str());
      break;
    }
    case Event::run_end: {
      const Spent& s = view.state.spent;
      std::ostringstream text;
      text << "done: " << view.state.step << " steps, " << format_count(static_cast<double>(s.tokens))
           << (view.eval.task == Task::classes ? " pictures, " : " tokens, ") << format_flops(s.flops) << ", "
           << format_duration(s.seconds) << ", peak memory " << human_bytes(view.peak_memory) << "; " << view.split
           << " " << to_text(view.eval);
      if (view.train_unreadable + view.eval_unreadable > 0)
        text << "; pictures that could not be read: " << view.train_unreadable << " for training, "
             << view.eval_unreadable << " of " << view.split;
      progress_.finish();
      progress_.print(text.str());
      break;
    }
    default:
      break;
  }
}

}  // namespace accrete
