#include "common/rpc/listen.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {

absl::StatusOr<HostPort> ReadPlace(std::string_view section, std::string_view key,
                                   std::string_view text, const ListenSection& c,
                                   const TlsSection& tls) {
  const std::string field = absl::StrFormat("%s.%s", section, key);
  ASSIGN_OR_RETURN(HostPort place, ParseHostPort(field, text));
  RETURN_IF_ERROR(CheckReach(field, text, place.host, c.rpc.insecure, tls.on()));
  return place;
}

void BindListen(Binder& b, ListenSection& c) {
  b.Field("listen", c.listen, "host:port of gRPC; port 0 takes a free one");
  b.Field("metrics", c.metrics, "host:port of /metrics and /healthz");
  b.Field("insecure", c.rpc.insecure,
          "allows hosts beyond loopback for both although nothing is encrypted");
  b.Field("advertise", c.rpc.advertise, "host that others connect to; empty: as in listen");
  b.Bytes("max_message", c.rpc.max_message, "largest message, both ways");
  b.Bytes("max_metadata", c.rpc.max_metadata, "headers of one call");
  b.Field("max_streams", c.rpc.max_streams, "calls of one connection at once; more wait");
  b.Field("keepalive", c.rpc.keepalive, "silence before a ping");
  b.Field("keepalive_timeout", c.rpc.keepalive_timeout, "without an answer the peer is lost");
  b.Field("drain", c.rpc.drain, "for running calls at shutdown");
}

absl::StatusOr<Listening> ReadListen(std::string_view section, const ListenSection& c,
                                     const TlsSection& tls) {
  ASSIGN_OR_RETURN(const HostPort rpc, ReadPlace(section, "listen", c.listen, c, tls));
  Listening read{.rpc = c.rpc, .metrics = {}};
  read.rpc.host = rpc.host;
  read.rpc.port = rpc.port;
  ASSIGN_OR_RETURN(read.metrics, ReadPlace(section, "metrics", c.metrics, c, tls));
  if (const absl::Status status = Validate(read.rpc); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s.%s", section, std::string(status.message())));
  }
  return read;
}

}  // namespace palimpsest
