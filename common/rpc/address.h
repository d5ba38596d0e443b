#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace palimpsest {

// Daemons of a run find one another by files in its folder, which may lie on a network file system.
struct Address {
  std::string host_port;
  int64_t pid = 0;  // of the daemon, on its own machine: tells one life of it from the next
  std::string metrics = {};  // host:port of its /metrics; empty: it is not told here
  bool operator==(const Address&) const = default;
};

// Of this process: gRPC at `rpc`, /metrics at `port` of `host`. A wildcard is reached as gRPC is.
absl::StatusOr<Address> OwnAddress(const std::string& rpc, const std::string& host, int port);

// Writes <run>/addresses/<role>-<rank> by rename: a reader sees the old content or the new one.
// `role` is one lower-case word.
absl::Status WriteAddress(const std::string& run, std::string_view role, int rank,
                          const Address& address);

// kNotFound until the daemon has written it. Looks at a fresh listing of the folder first: a
// network file system may remember for long that a name did not exist.
absl::StatusOr<Address> ReadAddress(const std::string& run, std::string_view role, int rank);

// Removes the file if it still tells `pid`; the file of a successor is left alone.
absl::Status RemoveAddress(const std::string& run, std::string_view role, int rank, int64_t pid);

// Asks every 100 ms. kDeadlineExceeded after `deadline`; a file that cannot be understood is an
// error at once.
absl::StatusOr<Address> WaitForAddress(const std::string& run, std::string_view role, int rank,
                                       absl::Time deadline, Clock& clock);

}  // namespace palimpsest
