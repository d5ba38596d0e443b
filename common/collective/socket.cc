#include "common/collective/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(100);  // whether it was given up
constexpr int kBacklog = 128;

absl::Status Failed(std::string_view what) {
  return absl::UnavailableError(absl::StrFormat("%s: %s", what, std::strerror(errno)));
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<Addresses> Resolve(const std::string& host, int port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code == 0) return Addresses(found, freeaddrinfo);
  return absl::UnavailableError(absl::StrFormat("%s: %s", host, gai_strerror(code)));
}

UniqueFd Open(const addrinfo& address) {
  return UniqueFd(socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// Small messages go at once, and a machine that is gone is noticed within a minute.
void Tune(const UniqueFd& socket) {
  const auto set = [&](int level, int name, int value) {
    setsockopt(socket.get(), level, name, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

}  // namespace

absl::Status AwaitEvents(const UniqueFd& socket, short events, const Deadline& deadline,
                         Clock& clock) {
  for (;;) {
    if (deadline.given_up()) return absl::CancelledError("given up");
    const absl::Duration left = deadline.at - clock.Now();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("nothing came in time");
    pollfd entry = {.fd = socket.get(), .events = events, .revents = 0};
    const auto wait = static_cast<int>(absl::ToInt64Milliseconds(std::min(left, kLook))) + 1;
    if (poll(&entry, 1, wait) > 0) return absl::OkStatus();
  }
}

absl::StatusOr<UniqueFd> ListenOn(const std::string& host) {
  ASSIGN_OR_RETURN(const Addresses addresses, Resolve(host, 0));
  UniqueFd listening = Open(*addresses);
  if (bind(listening.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 ||
      listen(listening.get(), kBacklog) != 0) {
    return Failed("listening on " + host);
  }
  return listening;
}

int PortOf(const UniqueFd& socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  // The port stands at the same place in both.
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

absl::StatusOr<UniqueFd> AcceptFrom(const UniqueFd& listening, const Deadline& deadline,
                                    Clock& clock) {
  for (;;) {
    UniqueFd accepted(accept4(listening.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted.get() >= 0) {
      Tune(accepted);
      return accepted;
    }
    // Others are about the one who came and went.
    if (errno == EMFILE || errno == ENFILE || errno == EBADF) return Failed("accepting");
    RETURN_IF_ERROR(AwaitEvents(listening, POLLIN, deadline, clock));
  }
}

absl::StatusOr<UniqueFd> ConnectTo(const std::string& host, int port, const Deadline& deadline,
                                   Clock& clock) {
  ASSIGN_OR_RETURN(const Addresses addresses, Resolve(host, port));
  UniqueFd socket = Open(*addresses);
  const std::string where = absl::StrFormat("connecting to %s:%d", host, port);
  if (connect(socket.get(), addresses->ai_addr, addresses->ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return Failed(where);
    RETURN_IF_ERROR(AwaitEvents(socket, POLLOUT, deadline, clock));
    socklen_t size = sizeof errno;
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &errno, &size);
    if (errno != 0) return Failed(where);
  }
  Tune(socket);
  return socket;
}

}  // namespace palimpsest
