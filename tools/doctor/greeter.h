#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/rpc/config.h"

namespace palimpsest::tools {

// Our side of a meeting over TCP: tells everybody our time, and whether we look at the folder.
// A question is one byte, an answer nine: 1 when we look, else 0, then nanoseconds since the epoch,
// big-endian.
class Greeter {
 public:
  // On all interfaces, at a free port.
  static absl::StatusOr<std::unique_ptr<Greeter>> Start(Clock& clock);
  ~Greeter();

  int port() const { return port_; }
  void Look() { looks_ = true; }
  int farewells() const { return farewells_; }  // nodes that have said that they need us no more

 private:
  Greeter(Clock& clock, UniqueFd listener, int port);
  void Serve();

  Clock& clock_;
  const UniqueFd listener_;
  const int port_;
  std::atomic<bool> looks_ = false, over_ = false;
  std::atomic<int> farewells_ = 0;
  std::thread thread_;
};

struct Greeting {
  bool looks = false;
  absl::Duration round_trip, clock_ahead;
};
// Asks the greeter at that place once. UNAVAILABLE names the place.
absl::StatusOr<Greeting> Greet(const HostPort& at, Clock& clock);
absl::Status Farewell(const HostPort& at, Clock& clock);

}  // namespace palimpsest::tools
