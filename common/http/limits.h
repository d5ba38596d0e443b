#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace palimpsest {

// What one listener allows its clients together, and each connection.
struct HttpLimits {
  int connections = 1;          // at once, a thread each; what comes beyond is turned away
  int64_t max_body = 1;         // bytes
  int64_t max_bytes = 1;        // of a whole request
  absl::Duration send_silence;  // nothing of a request has come for so long
  // From the connection to the last byte of its request, a handshake included.
  absl::Duration send_whole;
  absl::Duration take_silence;  // nothing of an answer was taken for so long
  absl::Duration take_whole = absl::InfiniteDuration();  // from the first byte of an answer
  // So long a connection is sure of its place while it sends, and again while it takes; then it
  // loses it to a newcomer who finds none. While its request is handled it keeps it anyhow.
  absl::Duration send_in_peace = absl::InfiniteDuration();
  absl::Duration take_in_peace = absl::InfiniteDuration();
};

}  // namespace palimpsest
