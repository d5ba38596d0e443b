#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/telemetry/http_page.h"
#include "common/telemetry/metrics.h"

namespace palimpsest {

class Https;

// Answers GET /metrics, and GET /healthz with 200 or 503. Two worker threads, one request per
// connection, so that a stop never waits for an idle peer.
class MetricsServer {
 public:
  // `port` 0 takes a free one. `ready` is called on a worker thread: OK answers 200, else 503 with
  // the message. `metrics` must outlive the server. With `https` only clients whose certificate may
  // call the page get it; others 403. `page` answers every other path; what roles go, the paths of
  // all of it are one method, "/page".
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& host, int port,
                                                              Metrics& metrics,
                                                              std::function<absl::Status()> ready,
                                                              std::shared_ptr<Https> https = {},
                                                              HttpPage page = {});
  ~MetricsServer();  // stops; requests that are being answered are finished

  int port() const;

 private:
  struct Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest
