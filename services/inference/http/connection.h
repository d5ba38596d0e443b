#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"

struct ssl_ctx_st;
struct ssl_st;

namespace palimpsest::inference {

// One accepted socket, in clear text or under TLS: read and written within bounds of time and size,
// and asked whether the other side is still there. Owned and used by one thread; `stopping` ends
// waiting for a request.
class Connection {
 public:
  // Owns `socket`. Reads no more than `max_bytes`. `tls`: a server's context, null in clear text.
  Connection(int socket, int64_t max_bytes, const std::atomic<bool>& stopping, ssl_ctx_st* tls);
  ~Connection();  // waits shortly for the other side to close, so that it gets the last answer
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Under TLS first of all; false when the client does not bring it to its end.
  bool Handshake();
  bool Alive() const;
  // Bytes, 0 at the end, -1 on an error or when a bound is passed.
  int64_t Read(char* bytes, size_t size);
  int64_t Write(const char* bytes, size_t size);
  bool Readable();

  int socket() const { return socket_; }
  const ssl_st* session() const { return session_.get(); }  // null in clear text

  // One short answer and the end, without waiting for anything.
  static void TurnAway(int socket, const std::string& answer);

 private:
  bool WaitFor(short events, absl::Duration most);
  absl::Duration ReadPatience() const;
  // What `result` of an SSL_ function asks to wait for (POLLIN, POLLOUT); 0: the session is over.
  short Wanted(int result) const;
  int64_t Receive();  // into buffer_; bytes, 0 at the end, -1 on an error

  const int socket_;
  const std::atomic<bool>& stopping_;
  const absl::Time request_deadline_;
  int64_t bytes_left_;
  std::string buffer_;
  size_t taken_ = 0;  // of buffer_
  const std::unique_ptr<ssl_st, void (*)(ssl_st*)> session_;
  mutable bool over_ = false;  // of the session
};

}  // namespace palimpsest::inference
