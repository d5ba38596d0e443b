#include "services/inference/http/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/time/clock.h"

namespace palimpsest::inference {
namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(100);   // between two looks at `stopping`
constexpr absl::Duration kSilence = absl::Seconds(5);        // while a request is sent
constexpr absl::Duration kWholeRequest = absl::Seconds(30);  // from its connection to its last byte
constexpr absl::Duration kStuck = absl::Seconds(10);         // nothing of an answer was taken
constexpr absl::Duration kFarewell = absl::Milliseconds(500);
constexpr size_t kBuffer = 16 * 1024;

bool Poll(int socket, short events, absl::Duration most) {
  pollfd watched{.fd = socket, .events = events, .revents = 0};
  return poll(&watched, 1, static_cast<int>(absl::ToInt64Milliseconds(most))) > 0;
}

}  // namespace

Connection::Connection(int socket, int64_t max_bytes, const std::atomic<bool>& stopping)
    : socket_(socket),
      stopping_(stopping),
      request_deadline_(absl::Now() + kWholeRequest),
      bytes_left_(max_bytes) {}

// Closing while bytes are unread would reset the connection under the answer.
Connection::~Connection() {
  shutdown(socket_, SHUT_WR);
  char dropped[1024];
  const absl::Time until = absl::Now() + kFarewell;
  while (absl::Now() < until && Poll(socket_, POLLIN, kFarewell) &&
         recv(socket_, dropped, sizeof(dropped), MSG_DONTWAIT) > 0) {
  }
  close(socket_);
}

bool Connection::Alive() const {
  if (!Poll(socket_, POLLIN, absl::ZeroDuration())) return true;
  char byte = 0;
  const ssize_t got = recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

bool Connection::WaitFor(short events, absl::Duration most) {
  const absl::Time until = absl::Now() + most;
  while (absl::Now() < until) {
    if (Poll(socket_, events, std::min(kSlice, until - absl::Now()))) return true;
    if (events == POLLIN && stopping_) return false;
  }
  return false;
}

bool Connection::Readable() {
  return taken_ < buffer_.size() ||
         WaitFor(POLLIN, std::min(kSilence, request_deadline_ - absl::Now()));
}

int64_t Connection::Read(char* bytes, size_t size) {
  if (taken_ == buffer_.size()) {
    if (bytes_left_ <= 0 || !Readable()) return -1;
    buffer_.resize(kBuffer);
    const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    buffer_.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    taken_ = 0;
    if (got <= 0) return got;
    bytes_left_ -= got;
  }
  const size_t given = std::min(size, buffer_.size() - taken_);
  std::memcpy(bytes, buffer_.data() + taken_, given);
  taken_ += given;
  return static_cast<int64_t>(given);
}

int64_t Connection::Write(const char* bytes, size_t size) {
  while (true) {
    const ssize_t sent = send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    if (errno == EINTR) continue;
    if (errno != EAGAIN || !WaitFor(POLLOUT, kStuck)) return -1;
  }
}

void Connection::TurnAway(int socket, const std::string& answer) {
  send(socket, answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  shutdown(socket, SHUT_WR);
  char dropped[4096];
  while (recv(socket, dropped, sizeof(dropped), MSG_DONTWAIT) > 0) {
  }
  close(socket);
}

}  // namespace palimpsest::inference
