#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "common/config/binder.h"
#include "common/rpc/listen.h"

namespace palimpsest::inference {

// An OpenAI-compatible door: `inference.http:` before one replica, `router.http:` before a fleet.
struct HttpSection {
  std::string listen;     // host:port, port 0 takes a free one; empty: no door
  std::string model;      // the name that clients ask for; empty: that of the run
  int connections = 256;  // at once, a thread each
  int64_t max_body = 8 << 20;
  absl::Duration deadline = absl::Minutes(10);  // of one request
};
void Bind(Binder& b, HttpSection& c);
// INVALID_ARGUMENT names `daemon` and key: "inference.http.max_body=0 ..". Where the door listens
// is judged by what `serve` and `tls` allow the daemon.
absl::Status Validate(std::string_view daemon, const HttpSection& c, const ListenSection& serve,
                      const TlsSection& tls);

}  // namespace palimpsest::inference
