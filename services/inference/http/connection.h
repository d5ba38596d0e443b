#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace palimpsest::inference {

// One accepted socket: read and written within bounds of time and size, and asked whether the
// other side is still there. Owned and used by one thread; `stopping` ends waiting for a request.
class Connection {
 public:
  // Owns `socket`. Reads no more than `max_bytes`.
  Connection(int socket, int64_t max_bytes, const std::atomic<bool>& stopping);
  ~Connection();  // waits shortly for the other side to close, so that it gets the last answer
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool Alive() const;
  // Bytes, 0 at the end, -1 on an error or when a bound is passed.
  int64_t Read(char* bytes, size_t size);
  int64_t Write(const char* bytes, size_t size);
  bool Readable();

  int socket() const { return socket_; }

  // One short answer and the end, without waiting for anything.
  static void TurnAway(int socket, const std::string& answer);

 private:
  bool WaitFor(short events, absl::Duration most);

  const int socket_;
  const std::atomic<bool>& stopping_;
  const absl::Time request_deadline_;
  int64_t bytes_left_;
  std::string buffer_;
  size_t taken_ = 0;  // of buffer_
};

}  // namespace palimpsest::inference
