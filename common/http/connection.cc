#include "common/http/connection.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(100);  // between two looks at `stopping`
constexpr absl::Duration kLastPatience = absl::Seconds(5);  // for answers, after `stopping`
constexpr absl::Duration kFarewell = absl::Milliseconds(500);
constexpr size_t kBuffer = 16 * 1024;

bool Poll(int socket, short events, absl::Duration most) {
  pollfd watched{.fd = socket, .events = events, .revents = 0};
  return poll(&watched, 1, static_cast<int>(absl::ToInt64Milliseconds(most))) > 0;
}

// SSL_read and its like have no flag for a single call that does not wait.
SSL* MakeSession(ssl_ctx_st* tls, int socket) {
  if (tls == nullptr) return nullptr;
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
  SSL* const session = SSL_new(tls);
  if (session != nullptr) SSL_set_fd(session, socket);
  return session;
}

}  // namespace

Connection::Connection(int socket, const HttpLimits& limits, Places& places,
                       const std::atomic<bool>& stopping, ssl_ctx_st* tls)
    : socket_(socket),
      limits_(limits),
      places_(places),
      stopping_(stopping),
      request_deadline_(absl::Now() + limits.send_whole),
      bytes_left_(limits.max_bytes),
      session_(MakeSession(tls, socket), SSL_free) {}

Connection::~Connection() {
  if (places_.Keep(socket_, absl::Now() + kFarewell)) Farewell();
  places_.Leave(socket_);
  close(socket_);
}

// Closing while bytes are unread would reset the connection under the answer. Of those who go on
// sending no more is dropped than a request may have.
void Connection::Farewell() {
  if (session_ != nullptr && !over_) SSL_shutdown(session_.get());
  ERR_clear_error();
  shutdown(socket_, SHUT_WR);
  char dropped[4096];
  const absl::Time until = absl::Now() + kFarewell;
  for (int64_t left = limits_.max_bytes; left > 0 && absl::Now() < until;) {
    if (!Poll(socket_, POLLIN, kFarewell)) return;
    const int64_t got = recv(socket_, dropped, sizeof(dropped), MSG_DONTWAIT);
    if (got <= 0) return;
    left -= got;
  }
}

short Connection::Wanted(int result) const {
  const int error = SSL_get_error(session_.get(), result);
  ERR_clear_error();
  if (error == SSL_ERROR_WANT_READ) return POLLIN;
  if (error == SSL_ERROR_WANT_WRITE) return POLLOUT;
  over_ = true;
  return 0;
}

bool Connection::Handshake() {
  if (session_ == nullptr) return false;  // no memory for it
  while (!over_) {
    const int done = SSL_accept(session_.get());
    if (done == 1) return true;
    const short events = Wanted(done);
    if (events == 0 || !WaitFor(events, ReadPatience())) over_ = true;
  }
  return false;
}

bool Connection::Alive() const {
  if (over_) return false;
  if (!Poll(socket_, POLLIN, absl::ZeroDuration())) return true;
  char byte = 0;
  if (session_ != nullptr) {
    const int got = SSL_peek(session_.get(), &byte, 1);
    return got > 0 || Wanted(got) != 0;
  }
  const ssize_t got = recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

bool Connection::WaitFor(short events, absl::Duration most) {
  absl::Time until = absl::Now() + most;
  while (absl::Now() < until) {
    if (Poll(socket_, events, std::min(kSlice, until - absl::Now()))) return true;
    if (!stopping_) continue;
    if (events == POLLIN) return false;
    answer_deadline_ = std::min(answer_deadline_, absl::Now() + kLastPatience);
    until = std::min(until, answer_deadline_);
  }
  return false;
}

absl::Duration Connection::ReadPatience() const {
  return std::min(limits_.send_silence, request_deadline_ - absl::Now());
}

absl::Duration Connection::WritePatience() const {
  return std::min(limits_.take_silence, answer_deadline_ - absl::Now());
}

bool Connection::Handling() { return places_.Keep(socket_, absl::InfiniteFuture()); }

bool Connection::Readable() {
  return taken_ < buffer_.size() || (session_ != nullptr && SSL_pending(session_.get()) > 0) ||
         WaitFor(POLLIN, ReadPatience());
}

int64_t Connection::Receive() {
  if (session_ == nullptr) return recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  while (!over_) {
    const int got = SSL_read(session_.get(), buffer_.data(), static_cast<int>(buffer_.size()));
    if (got > 0) return got;
    const short events = Wanted(got);
    if (events == 0) return (SSL_get_shutdown(session_.get()) & SSL_RECEIVED_SHUTDOWN) ? 0 : -1;
    if (!WaitFor(events, ReadPatience())) return -1;
  }
  return -1;
}

int64_t Connection::Read(char* bytes, size_t size) {
  if (taken_ == buffer_.size()) {
    if (bytes_left_ <= 0 || !Readable()) return -1;
    buffer_.resize(kBuffer);
    const int64_t got = Receive();
    buffer_.resize(static_cast<size_t>(std::max<int64_t>(got, 0)));
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
  if (!std::exchange(answering_, true)) {
    answer_deadline_ = absl::Now() + limits_.take_whole;
    places_.Keep(socket_, absl::Now() + limits_.take_in_peace);
  }
  while (!over_ && absl::Now() < answer_deadline_) {
    if (session_ != nullptr) {
      const int sent = SSL_write(session_.get(), bytes, static_cast<int>(std::min(size, kBuffer)));
      if (sent > 0) return sent;
      const short events = Wanted(sent);
      if (events == 0 || !WaitFor(events, WritePatience())) return -1;
      continue;
    }
    const ssize_t sent = send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    if (errno == EINTR) continue;
    if (errno != EAGAIN || !WaitFor(POLLOUT, WritePatience())) return -1;
  }
  return -1;
}

bool Connection::WriteAll(const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const int64_t sent = Write(bytes.data() + done, bytes.size() - done);
    if (sent <= 0) return false;
    done += static_cast<size_t>(sent);
  }
  return true;
}

void Connection::TurnAway(int socket, const std::string& answer) {
  send(socket, answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  shutdown(socket, SHUT_WR);
  char dropped[4096];  // what is there of a request that is as short as they mostly are
  recv(socket, dropped, sizeof(dropped), MSG_DONTWAIT);
  close(socket);
}

}  // namespace palimpsest
