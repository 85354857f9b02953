#include "training/signals.h"

#include <signal.h>
#include <unistd.h>

namespace accrete {
namespace {

// A signal handler can reach nothing else.
volatile sig_atomic_t received_signal = 0;

void handle(int signal) {
  if (received_signal != 0) _exit(128 + signal);
  received_signal = signal;
}

void install(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace

SignalWatch::SignalWatch() {
  received_signal = 0;
  install(handle);
}
SignalWatch::~SignalWatch() { install(SIG_DFL); }
int SignalWatch::received() { return received_signal; }

}  // namespace accrete
