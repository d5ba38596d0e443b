#include "common/telemetry/metrics_server.h"

#include <httplib.h>

#include <thread>

#include "absl/strings/str_format.h"
#include "common/tls/https.h"

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

// The name under which common/tls/access.h knows a path.
std::string MethodOf(const std::string& path, bool has_page) {
  return has_page && path != "/metrics" && path != "/healthz" ? "/page" : path;
}

std::unique_ptr<httplib::Server> MakeServer(const std::shared_ptr<Https>& https, bool has_page) {
  if (https == nullptr) return std::make_unique<httplib::Server>();
  auto server = std::make_unique<httplib::SSLServer>([&](SSL_CTX& context) {
    https->Configure(&context);
    return true;
  });
  server->set_pre_routing_handler(
      [has_page](const httplib::Request& request, httplib::Response& response) {
        const absl::Status may = Https::Check(request.ssl, MethodOf(request.path, has_page));
        if (may.ok()) return httplib::Server::HandlerResponse::Unhandled;
        response.status = 403;
        response.set_content(std::string(may.message()) + "\n", "text/plain; charset=utf-8");
        return httplib::Server::HandlerResponse::Handled;
      });
  return server;
}

}  // namespace

struct MetricsServer::Impl {
  Impl(std::shared_ptr<Https> under, bool has_page)
      : https(std::move(under)), server(MakeServer(https, has_page)) {}

  const std::shared_ptr<Https> https;  // null: clear text
  const std::unique_ptr<httplib::Server> server;
  std::thread listener;
  int port = 0;

  void Configure(Metrics& metrics, std::function<absl::Status()> ready, HttpPage page) {
    httplib::Server& http = *server;
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
    if (page) http.Get(".*", Serve(std::move(page)));
  }

  // What a browser may do with a page of ours: nothing but show it, with what came from this port.
  static httplib::Server::Handler Serve(HttpPage page) {
    return [page = std::move(page)](const httplib::Request& request, httplib::Response& response) {
      HttpQuestion question{.path = request.path};
      for (const auto& [name, value] : request.params) question.parameters[name] = value;
      HttpAnswer answer = page(question);
      response.status = answer.status;
      response.set_content(std::move(answer.body), answer.type.c_str());
      response.set_header("Cache-Control", "no-store");
      response.set_header("Content-Security-Policy",
                          "default-src 'none'; script-src 'self'; style-src 'self'; "
                          "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
                          "base-uri 'none'; form-action 'none'");
      response.set_header("X-Content-Type-Options", "nosniff");
      response.set_header("Referrer-Policy", "no-referrer");
    };
  }
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& host, int port, Metrics& metrics, std::function<absl::Status()> ready,
    std::shared_ptr<Https> https, HttpPage page) {
  auto impl = std::make_unique<Impl>(std::move(https), static_cast<bool>(page));
  impl->Configure(metrics, std::move(ready), std::move(page));
  if (port == 0) {
    impl->port = impl->server->bind_to_any_port(host.c_str());
  } else if (impl->server->bind_to_port(host.c_str(), port)) {
    impl->port = port;
  }
  if (impl->port <= 0) {
    return absl::UnavailableError(
        absl::StrFormat("the metrics server cannot listen on %s:%d", host, port));
  }
  impl->listener = std::thread([http = impl->server.get()] { http->listen_after_bind(); });
  // A stop before the loop runs would be lost, and the join would then hang.
  while (!impl->server->is_running()) std::this_thread::yield();
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

MetricsServer::~MetricsServer() {
  impl_->server->stop();
  impl_->listener.join();
}

int MetricsServer::port() const { return impl_->port; }

}  // namespace palimpsest
