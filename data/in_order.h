// Work of many threads, taken in order: results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace accrete {

// take(i, make(i)) for i = 0 .. n-1, in this order and on the calling thread; make runs on `threads` others, at most a
// few results ahead. The first exception of either ends everything and is thrown on.
template <class Make, class Take>
void in_order(int64_t n, int threads, const Make& make, const Take& take) {
  using Result = decltype(make(int64_t{0}));
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) take(i, make(i));
    return;
  }
  struct Slot {
    Result result{};
    std::exception_ptr error;
    bool ready = false;
  };
  const int64_t depth = 4 * int64_t{threads};
  std::vector<Slot> slots(static_cast<size_t>(depth));
  std::mutex mutex;
  std::condition_variable freed, filled;
  int64_t claimed = 0, taken = 0;
  bool stop = false;

  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (true) {
      freed.wait(lock, [&] { return stop || claimed == n || claimed < taken + depth; });
      if (stop || claimed == n) return;
      const int64_t i = claimed++;
      lock.unlock();
      Slot slot;
      try {
        slot.result = make(i);
      } catch (...) {
        slot.error = std::current_exception();
      }
      slot.ready = true;
      lock.lock();
      slots[static_cast<size_t>(i % depth)] = std::move(slot);
      filled.notify_all();
    }
  };
  struct Team {
    std::vector<std::thread> threads;
    std::mutex& mutex;
    std::condition_variable& freed;
    bool& stop;
    ~Team() {
      {
        const std::lock_guard lock(mutex);
        stop = true;
      }
      freed.notify_all();
      for (std::thread& thread : threads) thread.join();
    }
  } team{{}, mutex, freed, stop};
  for (int64_t t = 0; t < std::min<int64_t>(threads, n); ++t) team.threads.emplace_back(work);

  for (int64_t i = 0; i < n; ++i) {
    Slot slot;
    {
      std::unique_lock lock(mutex);
      Slot& waiting = slots[static_cast<size_t>(i % depth)];
      filled.wait(lock, [&] { return waiting.ready; });
      slot = std::exchange(waiting, Slot{});
      ++taken;
    }
    freed.notify_all();
    if (slot.error) std::rethrow_exception(slot.error);
    take(i, std::move(slot.result));
  }
}

}  // namespace accrete
