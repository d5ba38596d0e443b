#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/rpc/config.h"
#include "common/tls/section.h"

namespace palimpsest {

// Where a daemon serves, as its section of the YAML says it.
struct ListenSection {
  std::string listen = "127.0.0.1:0";   // host:port of gRPC; port 0 takes a free one
  std::string metrics = "127.0.0.1:0";  // host:port of /metrics and /healthz, likewise
  RpcServerConfig rpc;                  // its host and port are not read: `listen` gives them
  bool operator==(const ListenSection&) const = default;
};
// Binds the keys into the daemon's own section: `env.listen`, `env.insecure`, ...
void BindListen(Binder& b, ListenSection& c);

// One place of a daemon's section, of which `c` has the options. INVALID_ARGUMENT names `section`
// and `key`; beyond loopback as CheckReach says.
absl::StatusOr<HostPort> ReadPlace(std::string_view section, std::string_view key,
                                   std::string_view text, const ListenSection& c,
                                   const TlsSection& tls);

// The two servers of a daemon.
struct Listening {
  RpcServerConfig rpc;
  HostPort metrics;
};
// INVALID_ARGUMENT names `section` and key. Neither goes beyond loopback but as CheckReach says.
absl::StatusOr<Listening> ReadListen(std::string_view section, const ListenSection& c,
                                     const TlsSection& tls);

}  // namespace palimpsest
