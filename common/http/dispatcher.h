#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/http/connection.h"
#include "common/http/message.h"

namespace palimpsest {

// Reads one request from a connection, finds its route and frames the answer: what cpp-httplib does
// for us. Its own sockets are not used: they would not tell a handler that the client has gone, and
// would take headers and chunked or compressed bodies of any size, for any time. Any thread.
class Dispatcher {
 public:
  struct Options {
    int64_t max_body = 1;   // bytes
    bool compress = false;  // answers, for clients that ask for it
    HttpRefusal refusal;    // of what never reached a handler
    // PERMISSION_DENIED: the client may not have this path. Called after its headers were read.
    std::function<absl::Status(const Connection&, const std::string& path)> may;
  };
  Dispatcher(Options options, std::vector<HttpRoute> routes);
  ~Dispatcher();

  void Answer(Connection& connection);
  // An answer as it is written when nothing was read. `reason`: "Forbidden".
  static std::string Raw(const HttpAnswer& answer, const std::string& reason);

 private:
  class Server;
  const std::unique_ptr<Server> server_;
};

}  // namespace palimpsest
