#include "common/rpc/config.h"

#include <arpa/inet.h>

#include <charconv>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {
namespace {

constexpr int64_t kMaxMessageLimit = int64_t{1} << 30;

absl::Status CheckTime(std::string_view name, absl::Duration value, absl::Duration least) {
  if (value >= least && value <= absl::Hours(24 * 7)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s=%s is outside of [%s, 168h]", name,
                                                    absl::FormatDuration(value),
                                                    absl::FormatDuration(least)));
}

absl::Status CheckMessage(int64_t bytes) {
  if (bytes >= 4096 && bytes <= kMaxMessageLimit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("max_message=%d bytes is outside of [4KiB, 1GiB]", bytes));
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(std::string_view field, std::string_view text) {
  const auto refuse = [&](const char* what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s=\"%s\": %s", field, text, what));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return refuse("expected host:port");
  std::string_view host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return refuse("an IPv6 host stands in brackets");
  }
  if (host.empty()) return refuse("the host is empty");
  const std::string_view digits = text.substr(colon + 1);
  HostPort parsed{.host = std::string(host)};
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), parsed.port);
  if (error != std::errc() || end != digits.data() + digits.size() || parsed.port < 0 ||
      parsed.port > 65535) {
    return refuse("the port is not a number of [0, 65535]");
  }
  return parsed;
}

void Bind(Binder& b, RpcServerConfig& c) {
  b.Field("host", c.host, "to listen on");
  b.Field("port", c.port, "0 takes a free one; the address file tells it");
  b.Field("insecure", c.insecure, "allows a host beyond loopback although calls are not encrypted");
  b.Field("advertise", c.advertise, "host that others connect to; empty: as in host");
  b.Bytes("max_message", c.max_message, "largest message, both ways");
  b.Bytes("max_metadata", c.max_metadata, "headers of one call");
  b.Field("max_streams", c.max_streams, "calls of one connection at once; more wait");
  b.Field("keepalive", c.keepalive, "silence before a ping");
  b.Field("keepalive_timeout", c.keepalive_timeout, "without an answer the peer is lost");
  b.Field("drain", c.drain, "for running calls at shutdown");
}

absl::Status Validate(const RpcServerConfig& c) {
  if (c.host.empty()) return absl::InvalidArgumentError("host is empty");
  if (c.port < 0 || c.port > 65535) {
    return absl::InvalidArgumentError(absl::StrFormat("port=%d is outside of [0, 65535]", c.port));
  }
  RETURN_IF_ERROR(CheckMessage(c.max_message));
  if (c.max_metadata < 4096 || c.max_metadata > (1 << 20)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_metadata=%d bytes is outside of [4KiB, 1MiB]", c.max_metadata));
  }
  if (c.max_streams < 1) {
    return absl::InvalidArgumentError(absl::StrFormat("max_streams=%d is below 1", c.max_streams));
  }
  RETURN_IF_ERROR(CheckTime("keepalive", c.keepalive, absl::Seconds(1)));
  RETURN_IF_ERROR(CheckTime("keepalive_timeout", c.keepalive_timeout, absl::Milliseconds(100)));
  return CheckTime("drain", c.drain, absl::ZeroDuration());
}

void Bind(Binder& b, ChannelConfig& c) {
  b.Field("call_deadline", c.call_deadline, "of a call that needs no other");
  b.Bytes("max_message", c.max_message, "largest message, both ways");
  b.Field("keepalive", c.keepalive, "silence before a ping");
  b.Field("keepalive_timeout", c.keepalive_timeout, "without an answer the peer is lost");
  b.Field("max_reconnect_backoff", c.max_reconnect_backoff, "between two attempts to connect");
}

absl::Status Validate(const ChannelConfig& c) {
  RETURN_IF_ERROR(CheckTime("call_deadline", c.call_deadline, absl::Milliseconds(1)));
  RETURN_IF_ERROR(CheckMessage(c.max_message));
  RETURN_IF_ERROR(CheckTime("keepalive", c.keepalive, absl::Seconds(1)));
  RETURN_IF_ERROR(CheckTime("keepalive_timeout", c.keepalive_timeout, absl::Milliseconds(100)));
  return CheckTime("max_reconnect_backoff", c.max_reconnect_backoff, absl::Milliseconds(100));
}

absl::Status CheckReach(std::string_view field, std::string_view value, std::string_view host,
                        bool insecure, bool tls) {
  const size_t dot = field.rfind('.');
  const std::string_view section =
      dot == std::string_view::npos ? std::string_view() : field.substr(0, dot + 1);
  if (insecure && tls) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%sinsecure=true says that nothing is encrypted, tls.folder the contrary; keep one",
        section));
  }
  if (IsLoopback(host) || insecure || tls) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s=%s can be reached from other machines and nothing there is encrypted; use 127.0.0.1, "
      "name certificates in tls.folder, or set %sinsecure: true on a network you trust",
      field, value, section));
}

bool IsLoopback(std::string_view host) {
  if (host == "localhost") return true;
  const std::string text(host);
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string JoinHostPort(std::string_view host, int port) {
  const bool v6 = host.find(':') != std::string_view::npos;
  return v6 ? absl::StrFormat("[%s]:%d", host, port) : absl::StrFormat("%s:%d", host, port);
}

}  // namespace palimpsest
