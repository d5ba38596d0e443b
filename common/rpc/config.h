#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/config/binder.h"

namespace palimpsest {

// "127.0.0.1:0", "[::1]:9090". INVALID_ARGUMENT names `field`.
struct HostPort {
  std::string host = "127.0.0.1";
  int port = 0;  // 0: any free one
};
absl::StatusOr<HostPort> ParseHostPort(std::string_view field, std::string_view text);

// Where a daemon listens, and how much it takes from a peer.
struct RpcServerConfig {
  std::string host = "127.0.0.1";
  int port = 0;           // 0: any free one
  bool insecure = false;  // allows a host that other machines reach, in clear text; see CheckReach
  std::string advertise;  // host for others; empty: `host`, or the host name for a wildcard
  int64_t max_message = int64_t{64} << 20;               // bytes, both ways
  int64_t max_metadata = int64_t{16} << 10;              // bytes of the headers of one call
  int max_streams = 1024;                                // calls of one connection at once
  absl::Duration keepalive = absl::Seconds(20);          // silence before a ping
  absl::Duration keepalive_timeout = absl::Seconds(10);  // wait for its answer
  absl::Duration drain = absl::Seconds(10);              // for running calls at shutdown
  bool operator==(const RpcServerConfig&) const = default;
};
void Bind(Binder& b, RpcServerConfig& c);
absl::Status Validate(const RpcServerConfig& c);

struct ChannelConfig {
  absl::Duration call_deadline = absl::Minutes(1);  // of a call that needs no other
  int64_t max_message = int64_t{64} << 20;
  absl::Duration keepalive = absl::Seconds(20);  // at least 1 s; servers refuse more pings
  absl::Duration keepalive_timeout = absl::Seconds(10);
  absl::Duration max_reconnect_backoff = absl::Seconds(5);
  bool operator==(const ChannelConfig&) const = default;
};
void Bind(Binder& b, ChannelConfig& c);
absl::Status Validate(const ChannelConfig& c);

// What a server that listens on `host` may risk: beyond loopback only under TLS, or `insecure` in
// clear text; not both, since one of them is then not meant. INVALID_ARGUMENT names `field`,
// which says `value`; the option stands beside it.
absl::Status CheckReach(std::string_view field, std::string_view value, std::string_view host,
                        bool insecure, bool tls);

// True for localhost, 127.0.0.0/8 and ::1.
bool IsLoopback(std::string_view host);

// "host:port", with brackets around an IPv6 address.
std::string JoinHostPort(std::string_view host, int port);

}  // namespace palimpsest
