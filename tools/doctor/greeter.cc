#include "tools/doctor/greeter.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"

namespace palimpsest::tools {
namespace {

constexpr char kQuestion = '?', kFarewell = '.';
constexpr int kPollMs = 100;
constexpr timeval kAnswerWithin = {.tv_sec = 5, .tv_usec = 0};
using Answer = std::array<unsigned char, 9>;

Answer AnswerOf(bool looks, absl::Time now) {
  Answer answer = {looks};
  const auto nanos = static_cast<uint64_t>(absl::ToUnixNanos(now));
  for (size_t i = 0; i < 8; ++i) {
    answer[1 + i] = static_cast<unsigned char>(nanos >> (56 - 8 * i));
  }
  return answer;
}

absl::Time TimeOf(const Answer& answer) {
  uint64_t nanos = 0;
  for (size_t i = 0; i < 8; ++i) nanos = nanos << 8 | answer[1 + i];
  return absl::FromUnixNanos(static_cast<int64_t>(nanos));
}

absl::StatusOr<UniqueFd> Connect(const HostPort& at) {
  const auto failed = [&at](const char* why) {
    return absl::UnavailableError(absl::StrFormat("%s: %s", JoinHostPort(at.host, at.port), why));
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &hints, &found);
  if (code != 0) return failed(gai_strerror(code));
  int error = EHOSTUNREACH;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    UniqueFd line(socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // Also bounds the time of connect.
    setsockopt(line.get(), SOL_SOCKET, SO_SNDTIMEO, &kAnswerWithin, sizeof(kAnswerWithin));
    setsockopt(line.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerWithin, sizeof(kAnswerWithin));
    if (connect(line.get(), one->ai_addr, one->ai_addrlen) == 0) {
      freeaddrinfo(found);
      return line;
    }
    error = errno;
  }
  freeaddrinfo(found);
  return failed(strerror(error));
}

absl::StatusOr<Greeting> Ask(const HostPort& at, char question, Clock& clock) {
  ASSIGN_OR_RETURN(const UniqueFd line, Connect(at));
  Answer answer{};
  const absl::Time asked = clock.Now();
  if (send(line.get(), &question, 1, MSG_NOSIGNAL) != 1 ||
      recv(line.get(), answer.data(), answer.size(), MSG_WAITALL) !=
          static_cast<ssize_t>(answer.size())) {
    return absl::UnavailableError(
        absl::StrFormat("%s: connected, but no answer", JoinHostPort(at.host, at.port)));
  }
  const absl::Duration round_trip = clock.Now() - asked;
  return Greeting{answer[0] != 0, round_trip, TimeOf(answer) - (asked + round_trip / 2)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Greeter>> Greeter::Start(Clock& clock) {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in place{};
  place.sin_family = AF_INET;
  socklen_t size = sizeof(place);
  auto* const address = reinterpret_cast<sockaddr*>(&place);
  if (bind(listener.get(), address, size) != 0 || listen(listener.get(), SOMAXCONN) != 0 ||
      getsockname(listener.get(), address, &size) != 0) {
    return absl::ErrnoToStatus(errno, "listen for the other nodes");
  }
  return std::unique_ptr<Greeter>(new Greeter(clock, std::move(listener), ntohs(place.sin_port)));
}

Greeter::Greeter(Clock& clock, UniqueFd listener, int port)
    : clock_(clock), listener_(std::move(listener)), port_(port), thread_([this] { Serve(); }) {}

Greeter::~Greeter() {
  over_ = true;
  thread_.join();
}

// One after the other: a question takes no time.
void Greeter::Serve() {
  while (!over_) {
    pollfd waits{.fd = listener_.get(), .events = POLLIN, .revents = 0};
    if (poll(&waits, 1, kPollMs) <= 0) continue;
    const UniqueFd line(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    setsockopt(line.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerWithin, sizeof(kAnswerWithin));
    char question = 0;
    if (recv(line.get(), &question, 1, 0) != 1) continue;
    const Answer answer = AnswerOf(looks_, clock_.Now());
    send(line.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (question == kFarewell) ++farewells_;
  }
}

absl::StatusOr<Greeting> Greet(const HostPort& at, Clock& clock) {
  return Ask(at, kQuestion, clock);
}

absl::Status Farewell(const HostPort& at, Clock& clock) {
  return Ask(at, kFarewell, clock).status();
}

}  // namespace palimpsest::tools
