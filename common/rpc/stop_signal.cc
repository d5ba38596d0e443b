#include "common/rpc/stop_signal.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace palimpsest {
namespace {

// What the handler touches: lock-free atomics and write(2) only. The eventfd is never read, so that
// it stays readable for all waiters.
std::atomic<int> g_event = -1;
std::atomic<int> g_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free);

struct sigaction g_old_term, g_old_int, g_old_warning, g_old_pipe;

void Raise() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(g_event.load(), &one, sizeof(one));
}

void OnSignal(int number) {
  const int saved = errno;
  int none = 0;
  g_signal.compare_exchange_strong(none, number);
  Raise();
  errno = saved;
}

}  // namespace

StopSignal::StopSignal() {
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int none = -1;
  if (event < 0 || !g_event.compare_exchange_strong(none, event)) {
    std::fprintf(stderr, "StopSignal: no eventfd, or a second StopSignal\n");
    std::abort();
  }
  g_signal = 0;
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, &g_old_term);
  sigaction(SIGINT, &action, &g_old_int);
  sigaction(SIGUSR1, &action, &g_old_warning);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &g_old_pipe);
}

StopSignal::~StopSignal() {
  sigaction(SIGTERM, &g_old_term, nullptr);
  sigaction(SIGINT, &g_old_int, nullptr);
  sigaction(SIGUSR1, &g_old_warning, nullptr);
  sigaction(SIGPIPE, &g_old_pipe, nullptr);
  close(g_event.exchange(-1));
}

bool StopSignal::WaitFor(absl::Duration timeout) const {
  // poll(2) keeps the time: a stop must not wait for a FakeClock. Its own handler may interrupt it,
  // in which case the event is readable at the second try.
  const absl::Duration rounded = absl::Ceil(timeout, absl::Milliseconds(1));
  const int millis = static_cast<int>(
      std::clamp<int64_t>(absl::ToInt64Milliseconds(rounded), 0, std::numeric_limits<int>::max()));
  pollfd event{.fd = g_event.load(), .events = POLLIN, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&event, 1, millis);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

void StopSignal::Wait() const {
  while (!WaitFor(absl::Hours(1))) {
  }
}

void StopSignal::Request() { Raise(); }

int StopSignal::signal() const { return g_signal; }

}  // namespace palimpsest
