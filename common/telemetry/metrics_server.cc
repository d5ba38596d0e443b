#include "common/telemetry/metrics_server.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/http/listener.h"

namespace palimpsest {
namespace {

// A scrape and a browser's few connections, whose requests are there as soon as they are: who sends
// is sure of no place, so that any number of connections that dawdle keep nobody out.
constexpr HttpLimits kLimits{.connections = 16,
                             .max_body = 64 * 1024,
                             .max_bytes = 64 * 1024,
                             .send_silence = absl::Seconds(5),
                             .send_whole = absl::Seconds(5),
                             .take_silence = absl::Seconds(10),
                             .take_whole = absl::Minutes(1),
                             .send_in_peace = absl::ZeroDuration(),
                             .take_in_peace = absl::Seconds(10)};

HttpAnswer Refusal(int status, const std::string& why) {
  return {.body = absl::StrCat(why.empty() ? absl::StrCat(status) : why, "\n")};
}

// What a browser may do with a page of ours: nothing but show it, with what came from this port.
HttpHandler Shielded(HttpHandler page) {
  return [page = std::move(page)](const HttpRequest& request) {
    HttpAnswer answer = page(request);
    answer.headers = {{"Cache-Control", "no-store"},
                      {"Content-Security-Policy",
                       "default-src 'none'; script-src 'self'; style-src 'self'; "
                       "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
                       "base-uri 'none'; form-action 'none'"},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"}};
    return answer;
  };
}

std::vector<HttpRoute> Routes(Metrics& metrics, std::function<absl::Status()> ready,
                              HttpHandler page) {
  std::vector<HttpRoute> routes{
      {.pattern = "/metrics",
       .handler =
           [&metrics](const HttpRequest&) {
             return HttpAnswer{.type = "text/plain; version=0.0.4; charset=utf-8",
                               .body = metrics.Text()};
           }},
      {.pattern = "/healthz", .handler = [ready = std::move(ready)](const HttpRequest&) {
         const absl::Status status = ready();
         return HttpAnswer{.status = status.ok() ? 200 : 503,
                           .body = status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n")};
       }}};
  if (page) routes.push_back({.pattern = ".*", .handler = Shielded(std::move(page))});
  return routes;
}

}  // namespace

MetricsServer::MetricsServer(std::unique_ptr<HttpListener> listener)
    : listener_(std::move(listener)) {}
MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& host, int port, Metrics& metrics, std::function<absl::Status()> ready,
    std::shared_ptr<Https> https, HttpHandler page) {
  HttpListener::Options options{.host = host,
                                .port = port,
                                .limits = kLimits,
                                .compress = true,
                                .refusal = Refusal,
                                .https = std::move(https),
                                .methods = {"/metrics", "/healthz"}};
  if (page) {
    options.methods.push_back("/page");
    options.method_of = [](const std::string& path) {
      return path == "/metrics" || path == "/healthz" ? path : "/page";
    };
  } else {
    options.method_of = [](const std::string& path) { return path; };
  }
  auto listener =
      HttpListener::Start(std::move(options), Routes(metrics, std::move(ready), std::move(page)));
  if (listener.ok()) return std::unique_ptr<MetricsServer>(new MetricsServer(*std::move(listener)));
  return absl::UnavailableError(absl::StrCat("the metrics server ", listener.status().message()));
}

int MetricsServer::port() const { return listener_->port(); }

}  // namespace palimpsest
