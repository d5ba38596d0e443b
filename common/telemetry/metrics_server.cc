#include "common/telemetry/metrics_server.h"

#include <httplib.h>

#include <thread>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

constexpr int kWorkers = 2;
constexpr time_t kIoTimeoutSeconds = 2;
constexpr size_t kMaxRequestBytes = 64 * 1024;

// cpp-httplib would set SO_REUSEPORT, under which two servers share a port without an error.
void SetSocketOptions(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

}  // namespace

struct MetricsServer::Impl {
  httplib::Server http;
  std::thread listener;
  int port = 0;

  void Configure(Metrics& metrics, std::function<absl::Status()> ready) {
    http.set_socket_options(SetSocketOptions);
    http.new_task_queue = [] { return new httplib::ThreadPool(kWorkers); };
    http.set_keep_alive_max_count(1);
    http.set_read_timeout(kIoTimeoutSeconds);
    http.set_write_timeout(kIoTimeoutSeconds);
    http.set_payload_max_length(kMaxRequestBytes);
    http.Get("/metrics", [&metrics](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics.Text(), "text/plain; version=0.0.4; charset=utf-8");
    });
    http.Get("/healthz",
             [ready = std::move(ready)](const httplib::Request&, httplib::Response& response) {
               const absl::Status status = ready();
               response.status = status.ok() ? 200 : 503;
               response.set_content(status.ok() ? "ok\n" : std::string(status.message()) + "\n",
                                    "text/plain; charset=utf-8");
             });
  }
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& host, int port, Metrics& metrics, std::function<absl::Status()> ready) {
  auto impl = std::make_unique<Impl>();
  impl->Configure(metrics, std::move(ready));
  if (port == 0) {
    impl->port = impl->http.bind_to_any_port(host.c_str());
  } else if (impl->http.bind_to_port(host.c_str(), port)) {
    impl->port = port;
  }
  if (impl->port <= 0) {
    return absl::UnavailableError(
        absl::StrFormat("the metrics server cannot listen on %s:%d", host, port));
  }
  impl->listener = std::thread([http = &impl->http] { http->listen_after_bind(); });
  // A stop before the loop runs would be lost, and the join would then hang.
  while (!impl->http.is_running()) std::this_thread::yield();
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

MetricsServer::~MetricsServer() {
  impl_->http.stop();
  impl_->listener.join();
}

int MetricsServer::port() const { return impl_->port; }

}  // namespace palimpsest
