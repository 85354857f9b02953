#include "training/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>

#include "engine/core/hash.h"
#include "training/metrics.h"

namespace accrete {
namespace fs = std::filesystem;
static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

namespace {

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

// ---- the three protobuf field kinds needed: varint (0), 8 bytes (1), length-delimited (2), 4 bytes (5)
// ------------------
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  out += static_cast<char>(value);
}
void put_key(std::string& out, int field, int kind) { put_varint(out, static_cast<uint64_t>(field) << 3 | kind); }
void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(double wall_time, std::optional<int64_t> step) {
  std::string event;
  put_key(event, 1, 1);
  put(event, wall_time);
  if (step) {
    put_key(event, 2, 0);
    put_varint(event, static_cast<uint64_t>(*step));
  }
  return event;
}

// A checksum of a text that contains its own checksum is weak, hence the rotation and the constant (as the format
// demands).
uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

// events.out.tfevents.<unix seconds>.<host>.<process>.<n>; n so that a run resumed within the second does not append to
// the old file.
fs::path new_file(const fs::path& folder, double wall_time) {
  fs::create_directories(folder);
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') std::strcpy(host.data(), "host");
  for (int n = 0;; ++n) {
    char stamp[32];
    std::snprintf(stamp, sizeof stamp, "%010lld", static_cast<long long>(wall_time));
    const fs::path path = folder / ("events.out.tfevents." + std::string(stamp) + "." + host.data() + "." +
                                    std::to_string(::getpid()) + "." + std::to_string(n));
    if (!fs::exists(path)) return path;
  }
}

}  // namespace

std::string event_record(std::string_view event) {
  std::string length, record;
  put(length, static_cast<uint64_t>(event.size()));
  record = length;
  put(record, masked_crc(length));
  record += event;
  put(record, masked_crc(event));
  return record;
}

std::string version_event(double wall_time) {
  std::string event = event_head(wall_time, {});
  put_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string scalar_event(double wall_time, int64_t step, std::string_view tag, float number) {
  std::string value, summary, event = event_head(wall_time, step);
  put_bytes(value, 1, tag);
  put_key(value, 2, 5);
  put(value, number);
  put_bytes(summary, 1, value);
  put_bytes(event, 5, summary);
  return event;
}

std::string restart_event(double wall_time, int64_t step) {
  std::string log, event = event_head(wall_time, step);
  put_key(log, 1, 0);
  put_varint(log, 1);
  put_bytes(event, 7, log);
  return event;
}

EventWriter::EventWriter(const fs::path& folder, double wall_time, std::optional<int64_t> resumed_at)
    : file_(new_file(folder, wall_time)) {
  std::string start = event_record(version_event(wall_time));
  if (resumed_at) start += event_record(restart_event(wall_time, *resumed_at));
  file_.write(start);
}

void EventWriter::scalar(std::string_view tag, double value, int64_t step, double wall_time) {
  file_.write(event_record(scalar_event(wall_time, step, tag, static_cast<float>(value))));
}

void EventWriter::add(const Json& event, double wall_time) {
  const std::string kind = event_text(event, "event", "");
  if ((kind != "step" && kind != "eval") || !event.contains("step")) return;
  const int64_t step = event["step"].get<int64_t>();
  const std::string group = kind == "step" ? "train" : event_text(event, "split", "eval");
  std::string records;  // all values of one event in one write
  for (const auto& [key, value] : event.items()) {
    if (key == "step" || key == "stage" || !value.is_number()) continue;
    records += event_record(scalar_event(wall_time, step, group + "/" + key, static_cast<float>(metric(event, key))));
  }
  file_.write(records);
}

}  // namespace accrete
