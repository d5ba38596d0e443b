#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/http/message.h"
#include "common/telemetry/metrics.h"

namespace palimpsest {

class HttpListener;
class Https;

// Answers GET /metrics, and GET /healthz with 200 or 503, within bounds that hostile clients cannot
// stretch (README.md).
class MetricsServer {
 public:
  // `port` 0 takes a free one. `ready` is called by several threads: OK answers 200, else 503 with
  // the message. `metrics` must outlive the server. With `https` only clients whose certificate may
  // call the page get it; others 403. `page` answers every other path; what roles go, the paths of
  // all of it are one method, "/page".
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& host, int port,
                                                              Metrics& metrics,
                                                              std::function<absl::Status()> ready,
                                                              std::shared_ptr<Https> https = {},
                                                              HttpHandler page = {});
  ~MetricsServer();  // stops; requests that are being answered are finished

  int port() const;

 private:
  explicit MetricsServer(std::unique_ptr<HttpListener> listener);
  const std::unique_ptr<HttpListener> listener_;
};

}  // namespace palimpsest
