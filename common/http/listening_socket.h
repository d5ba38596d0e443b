#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"

namespace palimpsest {

struct ListeningSocket {
  UniqueFd socket;
  int port = 0;
};

// On `host`, a name or an address, and `port`, 0: any free one. UNAVAILABLE when it is taken: two
// listeners never share a port.
absl::StatusOr<ListeningSocket> ListenOnPort(const std::string& host, int port);

}  // namespace palimpsest
