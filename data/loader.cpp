#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/core/error.h"

namespace accrete {

Loader::Loader(std::shared_ptr<const Source> source, int64_t first, int64_t count, int64_t step, int threads, int depth)
    : source_(std::move(source)), first_(first), count_(count), step_(step), slots_(std::max(1, depth)) {
  check(first >= 0 && count >= 1 && step >= 0, "loader", "a loader needs first >= 0, count >= 1 and step >= 0; got ",
        first, ", ", count, " and ", step);
  if (step_ == 0) step_ = count_;
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  freed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Loader::Slot Loader::make(int64_t k) const {
  Slot slot;
  try {
    slot.batch = source_->get(first_ + k * step_, count_);
  } catch (...) {
    slot.error = std::current_exception();
  }
  slot.ready = true;
  return slot;
}

void Loader::work() {
  const int64_t depth = static_cast<int64_t>(slots_.size());
  std::unique_lock lock(mutex_);
  while (true) {
    freed_.wait(lock, [&] { return stop_ || claimed_ < taken_ + depth; });
    if (stop_) return;
    const int64_t k = claimed_++;
    lock.unlock();
    Slot made = make(k);
    lock.lock();
    slots_[k % depth] = std::move(made);
    filled_.notify_all();
  }
}

Batch Loader::next() {
  const auto start = std::chrono::steady_clock::now();
  Slot slot;
  if (threads_.empty()) {
    slot = make(taken_++);
  } else {
    std::unique_lock lock(mutex_);
    Slot& waiting = slots_[taken_ % static_cast<int64_t>(slots_.size())];
    filled_.wait(lock, [&] { return waiting.ready; });
    slot = std::exchange(waiting, Slot{});
    ++taken_;
  }
  freed_.notify_all();
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (slot.error) std::rethrow_exception(slot.error);
  return std::move(slot.batch);
}

}  // namespace accrete
