#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/http/limits.h"
#include "common/http/places.h"

struct ssl_ctx_st;
struct ssl_st;

namespace palimpsest {

// One accepted socket, in clear text or under TLS: read and written within bounds of time and size,
// and asked whether the other side is still there. Owned and used by one thread; `stopping` ends
// waiting for a request.
class Connection {
 public:
  // Owns `socket`, which has taken its place in `places`. `tls`: a server's context, null in clear
  // text. The others outlive it.
  Connection(int socket, const HttpLimits& limits, Places& places,
             const std::atomic<bool>& stopping, ssl_ctx_st* tls);
  ~Connection();  // waits shortly for the other side to close, so that it gets the last answer
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Under TLS first of all; false when the client does not bring it to its end.
  bool Handshake();
  bool Alive() const;
  // As many bytes were read as may be, and nothing was answered.
  bool TooLong() const { return bytes_left_ <= 0 && !answering_; }
  // Bytes, 0 at the end, -1 on an error or when a bound is passed.
  int64_t Read(char* bytes, size_t size);
  int64_t Write(const char* bytes, size_t size);
  bool WriteAll(const std::string& bytes);
  bool Readable();
  // Its request is whole: until something is written nothing counts against the client. False: it
  // has lost its place before, nobody would hear the answer.
  bool Handling();

  int socket() const { return socket_; }
  const ssl_st* session() const { return session_.get(); }  // null in clear text

  // One short answer and the end, without waiting for anything.
  static void TurnAway(int socket, const std::string& answer);

 private:
  bool WaitFor(short events, absl::Duration most);
  absl::Duration ReadPatience() const;
  absl::Duration WritePatience() const;
  // What `result` of an SSL_ function asks to wait for (POLLIN, POLLOUT); 0: the session is over.
  short Wanted(int result) const;
  int64_t Receive();  // into buffer_; bytes, 0 at the end, -1 on an error
  void Farewell();

  const int socket_;
  const HttpLimits& limits_;
  Places& places_;
  const std::atomic<bool>& stopping_;
  const absl::Time request_deadline_;
  absl::Time answer_deadline_ = absl::InfiniteFuture();
  bool answering_ = false;
  int64_t bytes_left_;
  std::string buffer_;
  size_t taken_ = 0;  // of buffer_
  const std::unique_ptr<ssl_st, void (*)(ssl_st*)> session_;
  mutable bool over_ = false;  // of the session
};

}  // namespace palimpsest
