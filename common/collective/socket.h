#pragma once

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"

// Sockets of TCP that never block.
namespace palimpsest {

// When to stop waiting: at a time, or as soon as `given_up` says so, which is asked ten times a
// second. Which of them it was: DEADLINE_EXCEEDED, CANCELLED.
struct Deadline {
  absl::Time at;
  std::function<bool()> given_up = [] { return false; };
};

// Until the socket can be read from (poll's POLLIN) or written to (POLLOUT).
absl::Status AwaitEvents(const UniqueFd& socket, short events, const Deadline& deadline,
                         Clock& clock);

// Listens on the address that `host` names, on a port that the system chooses. UNAVAILABLE.
absl::StatusOr<UniqueFd> ListenOn(const std::string& host);
int PortOf(const UniqueFd& socket);

// The next one who connects; the connection to HOST:PORT. UNAVAILABLE besides.
absl::StatusOr<UniqueFd> AcceptFrom(const UniqueFd& listening, const Deadline& deadline,
                                    Clock& clock);
absl::StatusOr<UniqueFd> ConnectTo(const std::string& host, int port, const Deadline& deadline,
                                   Clock& clock);

}  // namespace palimpsest
