#include "common/rpc/listen.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {

absl::StatusOr<HostPort> ReadPlace(std::string_view section, std::string_view key,
                                   std::string_view text, bool insecure) {
  const std::string field = absl::StrFormat("%s.%s", section, key);
  ASSIGN_OR_RETURN(HostPort place, ParseHostPort(field, text));
  if (IsLoopback(place.host) || insecure) return place;
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s=%s can be reached from other machines and nothing there is encrypted; use 127.0.0.1, or "
      "set %s.insecure: true on a network you trust",
      field, text, section));
}

void BindListen(Binder& b, ListenSection& c) {
  b.Field("listen", c.listen, "host:port of gRPC; port 0 takes a free one");
  b.Field("metrics", c.metrics, "host:port of /metrics and /healthz");
  b.Field("insecure", c.rpc.insecure,
          "allows hosts beyond loopback for both although nothing is encrypted");
  b.Field("advertise", c.rpc.advertise, "host that others connect to; empty: as in listen");
  b.Bytes("max_message", c.rpc.max_message, "largest message, both ways");
  b.Field("keepalive", c.rpc.keepalive, "silence before a ping");
  b.Field("keepalive_timeout", c.rpc.keepalive_timeout, "without an answer the peer is lost");
  b.Field("drain", c.rpc.drain, "for running calls at shutdown");
}

absl::StatusOr<Listening> ReadListen(std::string_view section, const ListenSection& c) {
  const bool insecure = c.rpc.insecure;
  ASSIGN_OR_RETURN(const HostPort rpc, ReadPlace(section, "listen", c.listen, insecure));
  Listening read{.rpc = c.rpc, .metrics = {}};
  read.rpc.host = rpc.host;
  read.rpc.port = rpc.port;
  ASSIGN_OR_RETURN(read.metrics, ReadPlace(section, "metrics", c.metrics, insecure));
  if (const absl::Status status = Validate(read.rpc); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s.%s", section, std::string(status.message())));
  }
  return read;
}

}  // namespace palimpsest
