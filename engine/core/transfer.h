// Traffic between host and a queued device that does not hold up either side.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/batch.h"

namespace accrete {

// Brings batches to a device. Two slots take turns: while the device works on one batch, the next is copied from
// page-locked memory beside it. What operator() gives stays valid until the call after the next. On the CPU a batch is
// handed through.
class BatchFeed {
 public:
  explicit BatchFeed(Device device);
  ~BatchFeed();
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  Batch operator()(const Batch& host);

 private:
  struct Slot;
  Device device_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t next_ = 0;
};

// A batch as a step on the dry device sees it: shapes without memory. Ids stay on the host, whose values ops look at.
Batch dry_batch(const Batch& host);

// Reads a few numbers of a device without waiting for it: start() queues the copy, values() waits until it has run.
// On the CPU the copy is made at once.
class Readback {
 public:
  Readback(Device device, int64_t count);
  ~Readback();
  Readback(const Readback&) = delete;
  Readback& operator=(const Readback&) = delete;

  void start(const Tensor& source);  // (count) f32
  const std::vector<float>& values();

 private:
  struct Pinned;
  Device device_;
  std::vector<float> values_;
  std::unique_ptr<Pinned> pinned_;
  bool pending_ = false;
};

}  // namespace accrete
