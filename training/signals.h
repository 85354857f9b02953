// Stopping politely: the first SIGTERM or SIGINT asks the loop to finish its step and save; a second one leaves at
// once.
#pragma once

namespace accrete {

// Installs the handlers for its lifetime.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  // The signal that arrived, or 0.
  static int received();
};

}  // namespace accrete
