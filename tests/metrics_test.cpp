// metrics.jsonl and TensorBoard event files: bytes, resuming, and what happens to numbers that are none.
#include "training/metrics.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>

#include "engine/core/error.h"
#include "engine/core/json.h"
#include "training/tensorboard.h"

namespace fs = std::filesystem;
using namespace accrete;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("accrete-metrics-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes)
    for (const int shift : {4, 0}) out += "0123456789abcdef"[(c >> shift) & 15];
  return out;
}

Json step_event(int step) { return {{"event", "step"}, {"step", step}, {"loss", 1.0 / step}}; }

}  // namespace

TEST_CASE("a line holds the event; NaN and infinities become texts") {
  const double infinity = HUGE_VAL;
  const Json event = {{"event", "step"},
                      {"step", 3},
                      {"loss", std::nan("")},
                      {"norms", {infinity, -infinity, 0.5}},
                      {"text", "a\n\xc3"}};
  const std::string line = metrics_line(event);
  CHECK(line ==
        "{\"event\":\"step\",\"step\":3,\"loss\":\"nan\",\"norms\":[\"inf\",\"-inf\",0.5],\"text\":\"a\\n\ufffd\"}\n");
  const Json back = parse_json<Json>(line, "test");
  CHECK(std::isnan(metric(back, "loss")));
  CHECK(metric(back, "step") == 3);
  CHECK(std::isnan(metric(back, "text")));
  CHECK(std::isnan(metric(back, "absent")));
  CHECK(metric({{"x", "inf"}}, "x") == infinity);
  CHECK(metric({{"x", "-inf"}}, "x") == -infinity);
  CHECK_THROWS_AS(metrics_line({{"step", 1}}), Error);
  CHECK_THROWS_AS(metrics_line({{"event", 1}}), Error);
  CHECK_THROWS_AS(metrics_line(Json::array()), Error);
}

TEST_CASE("a resumed run drops what was written after its checkpoint") {
  const Folder folder;
  const fs::path path = folder.path / "metrics.jsonl";
  uint64_t checkpoint = 0;
  {
    MetricsWriter writer(path);
    for (int step = 1; step <= 10; ++step) {
      writer.write(step_event(step));
      CHECK(fs::file_size(path) == writer.position());  // nothing waits in a buffer
      if (step == 6) checkpoint = writer.position();
    }
  }
  const std::string all = read_text(path);
  {
    MetricsWriter writer(path, checkpoint);
    CHECK(read_metrics(path).size() == 6);
    for (int step = 7; step <= 10; ++step) writer.write(step_event(step));
  }
  CHECK(read_text(path) == all);

  MetricsWriter(path).write(step_event(11));  // without a position nothing is dropped
  CHECK(read_metrics(path).size() == 11);

  // A crash of the machine can leave a shorter file than the checkpoint says, cut anywhere: only complete lines stay.
  fs::resize_file(path, checkpoint - 3);
  CHECK(read_metrics(path).size() == 5);  // the incomplete line is not read
  { MetricsWriter writer(path, checkpoint); }
  CHECK(read_metrics(path).size() == 5);
  CHECK(fs::file_size(path) < checkpoint - 3);
  { MetricsWriter writer(path, 0); }
  CHECK(fs::file_size(path) == 0);
}

TEST_CASE("a damaged metrics file is refused with its line") {
  const Folder folder;
  const fs::path path = folder.path / "metrics.jsonl";
  write_text(path, "{\"event\":\"step\"}\n{\"event\":\n{\"event\":\"step\"}\n");
  CHECK_THROWS_WITH(read_metrics(path), doctest::Contains("metrics.jsonl line 2] not valid JSON"));
  write_text(path, "{\"event\":\"step\"}\n[]\n");
  CHECK_THROWS_WITH(read_metrics(path), doctest::Contains("line 2] expected an object"));
  CHECK_THROWS_WITH(read_metrics(folder.path / "absent"), doctest::Contains("cannot open"));
  write_text(path, "");
  CHECK(read_metrics(path).empty());
}

TEST_CASE("TensorBoard records have the published bytes") {
  const std::string version = version_event(1.0);
  CHECK(hex(version) == "09000000000000f03f1a0d627261696e2e4576656e743a32");
  CHECK(hex(event_record(version)) == "1800000000000000a37f4b22" + hex(version) + "86bf577a");
  const std::string scalar = scalar_event(2.0, 300, "loss", 0.5f);
  CHECK(hex(scalar) == "09000000000000004010ac022a0d0a0b0a046c6f7373150000003f");
  CHECK(hex(event_record(scalar)) == "1b000000000000001a0d9e13" + hex(scalar) + "dfc52b60");
}

TEST_CASE("event files: one for each start, a restart mark after the first") {
  const Folder folder;
  const fs::path tb = folder.path / "run" / "tb";
  std::string first, second;
  {
    EventWriter writer(tb, 1000.5);
    writer.scalar("loss", 0.5, 1, 1001);
    writer.add({{"event", "step"}, {"step", 2}, {"stage", 0}, {"loss", 0.25}, {"note", "text"}, {"lr", 1e-3}}, 1002);
    writer.add({{"event", "eval"}, {"step", 2}, {"split", "valid"}, {"loss", 0.75}}, 1003);
    writer.add({{"event", "run_end"}, {"step", 2}, {"loss", 0.75}}, 1003);
  }
  { EventWriter writer(tb, 1000.9, 2); }
  for (const auto& file : fs::directory_iterator(tb)) {
    CHECK(file.path().filename().string().starts_with("events.out.tfevents.0000001000."));
    (file.path().extension() == ".0" ? first : second) = read_text(file.path());
  }
  CHECK(first == event_record(version_event(1000.5)) + event_record(scalar_event(1001, 1, "loss", 0.5f)) +
                     event_record(scalar_event(1002, 2, "train/loss", 0.25f)) +
                     event_record(scalar_event(1002, 2, "train/lr", 1e-3f)) +
                     event_record(scalar_event(1003, 2, "valid/loss", 0.75f)));
  CHECK(second == event_record(version_event(1000.9)) + event_record(restart_event(1000.9, 2)));
}
