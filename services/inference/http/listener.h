#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace palimpsest {
class Https;
}

namespace palimpsest::inference {

struct HttpRequest {
  std::string path;
  std::string body;
  std::function<bool()> alive;  // is the client still there? False is final
};

struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  bool try_again = false;  // says Retry-After
  // If set, sent instead of `body` piece by piece; called until it gives nothing or the client is
  // gone. An empty piece: nothing yet, asked again at once, so it must have waited.
  std::function<std::optional<std::string>()> next_piece;
};

// A small HTTP/1.1 server: one request per connection, so that an idle client holds no thread.
// Connections, the size of a body and the time to send a request or to take an answer are bounded.
class HttpListener {
 public:
  struct Options {
    std::string host;
    int port = 0;           // 0: any free one
    int connections = 1;    // at once, a thread each; more are answered 429 (TLS: closed)
    int64_t max_body = 1;   // bytes
    std::string busy_body;  // what those are told
    std::function<std::string(int status)> error_body;  // of what never reached a handler
    std::shared_ptr<Https> https;  // null: clear text. Who may not use the door is answered 403
  };
  struct Route {
    bool post = false;    // else GET
    std::string pattern;  // a regular expression for the whole path
    std::function<HttpAnswer(const HttpRequest&)> handler;  // called by many threads
  };
  static absl::StatusOr<std::unique_ptr<HttpListener>> Start(Options options,
                                                             std::vector<Route> routes);
  // Requests that are being answered are finished; nobody is waited for who sends or takes nothing.
  ~HttpListener();

  int port() const;

 private:
  struct Impl;
  explicit HttpListener(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest::inference
