#pragma once

#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace palimpsest {

// The connections of a listener: so many at most. When no place is free a newcomer gets that of the
// connection whose peace ended first, so that clients that dawdle keep nobody out. Any thread.
class Places {
 public:
  explicit Places(int most) : most_(static_cast<size_t>(most)) {}

  // A place for `socket`, which keeps it until `peace_ends` at least. False: there is none.
  bool Take(int socket, absl::Time now, absl::Time peace_ends);
  // From now on until then. False: it has lost its place, and its socket was shut down.
  bool Keep(int socket, absl::Time peace_ends);
  // Before the socket is closed, so that none is shut down that is another's by then.
  void Leave(int socket);

 private:
  const size_t most_;
  absl::Mutex mu_;
  std::map<int, absl::Time> peace_ends_ ABSL_GUARDED_BY(mu_);  // by socket
};

}  // namespace palimpsest
