// Loader: threads that make the next batches while the present one is being used.
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "data/source.h"

namespace accrete {

class Loader {
 public:
  // Hands out source->get(first, count), then get(first + step, count), get(first + 2 step, count), ...; step = 0 means
  // count, and count * ranks lets each of several ranks take its share. `threads` = 0 makes the batches in the calling
  // thread; `depth` is the number of batches held ready. Neither changes what comes out.
  Loader(std::shared_ptr<const Source> source, int64_t first, int64_t count, int64_t step = 0, int threads = 1,
         int depth = 4);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next batch, in order. Rethrows what the source threw for it.
  Batch next();
  int64_t position() const { return first_ + taken_ * step_; }  // first sample of the batch that next() gives
  double wait_seconds() const { return wait_seconds_; }         // time spent waiting in next() so far

 private:
  struct Slot {
    bool ready = false;
    Batch batch;
    std::exception_ptr error;
  };
  void work();
  Slot make(int64_t k) const;

  std::shared_ptr<const Source> source_;
  int64_t first_, count_, step_;
  std::mutex mutex_;
  std::condition_variable filled_, freed_;
  std::vector<Slot> slots_;          // batch k waits in slot k mod depth
  int64_t claimed_ = 0, taken_ = 0;  // batches
  bool stop_ = false;
  double wait_seconds_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace accrete
