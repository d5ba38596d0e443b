#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/http/limits.h"
#include "common/http/message.h"

namespace palimpsest {

class Https;

// A small HTTP/1.1 server: one request per connection, so that an idle client holds no thread.
class HttpListener {
 public:
  struct Options {
    std::string host;
    int port = 0;  // 0: any free one
    HttpLimits limits;
    bool compress = false;  // answers, for clients that ask for it
    // Also of whom no place is left for (429; under TLS they are closed, before a handshake). Its
    // answer gets the status that it is asked for.
    HttpRefusal refusal;
    std::shared_ptr<Https> https;  // null: clear text, for everybody
    // What paths are called in the table of who may call what (common/tls/access.h). Under `https`
    // who may call none of them is refused before anything of a request is read.
    std::vector<std::string> methods;
    std::function<std::string(const std::string& path)> method_of;  // empty: all are the first
  };
  // UNAVAILABLE when the port is taken: two servers never share one.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Start(Options options,
                                                             std::vector<HttpRoute> routes);
  // Requests that are being answered are finished; nobody is waited for who sends or takes nothing.
  ~HttpListener();

  int port() const;

 private:
  struct Impl;
  explicit HttpListener(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest
