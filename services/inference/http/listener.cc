#include "services/inference/http/listener.h"

#include <httplib.h>

#include <thread>

#include "absl/strings/str_format.h"
#include "common/tls/https.h"
#include "services/inference/http/connection.h"
#include "services/inference/http/warm_threads.h"

// The only file that knows cpp-httplib, which parses requests and frames answers. Reading, writing
// and closing sockets is ours: its own would not tell a handler that the client has gone, and would
// take bodies without a length, or compressed ones, of any size.
namespace palimpsest::inference {
namespace {

constexpr int64_t kHeaderBytes = 64 * 1024;
constexpr char kRetryAfterSeconds[] = "1";
constexpr char kMethod[] = "/v1";  // of the table of who may call what: one row for all paths

// Of the request that this thread is answering.
thread_local Connection* current = nullptr;
// The accepting thread is about to run a job for which there is no thread.
thread_local bool turning_away = false;

class SocketStream final : public httplib::Stream {
 public:
  explicit SocketStream(Connection& connection) : connection_(connection) {}
  bool is_readable() const override { return connection_.Readable(); }
  bool is_writable() const override { return connection_.Alive(); }
  ssize_t read(char* bytes, size_t size) override { return connection_.Read(bytes, size); }
  ssize_t write(const char* bytes, size_t size) override { return connection_.Write(bytes, size); }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return connection_.socket(); }

 private:
  Connection& connection_;
};

// As many jobs as threads; what comes beside them is done at once, as `turning_away`.
class BoundedThreads final : public httplib::TaskQueue {
 public:
  explicit BoundedThreads(int count) : threads_(count) {}
  void enqueue(std::function<void()> job) override {
    if (threads_.Start(job)) return;
    turning_away = true;
    job();
    turning_away = false;
  }
  void shutdown() override { threads_.Join(); }

 private:
  WarmThreads threads_;
};

class Server final : public httplib::Server {
 public:
  Server(int64_t max_body, const std::string& busy_body, std::shared_ptr<Https> https)
      : https_(std::move(https)),
        context_(MakeContext(https_), SSL_CTX_free),
        max_bytes_(max_body + kHeaderBytes),
        busy_answer_(absl::StrFormat("HTTP/1.1 429 Too Many Requests\r\nRetry-After: %s\r\n"
                                     "Content-Type: application/json\r\nConnection: close\r\n"
                                     "Content-Length: %d\r\n\r\n%s",
                                     kRetryAfterSeconds, busy_body.size(), busy_body)) {}
  void StopReading() { stopping_ = true; }

 private:
  static SSL_CTX* MakeContext(const std::shared_ptr<Https>& https) {
    if (https == nullptr) return nullptr;
    SSL_CTX* const context = SSL_CTX_new(TLS_server_method());
    https->Configure(context);
    return context;
  }

  bool process_and_close_socket(socket_t socket) override {
    if (turning_away) {
      // Under TLS a handshake would hold up the accepting thread: the end has to say it.
      Connection::TurnAway(socket, context_ == nullptr ? busy_answer_ : "");
      return false;
    }
    Connection connection(socket, max_bytes_, stopping_, context_.get());
    if (context_ != nullptr && !connection.Handshake()) return false;
    SocketStream stream(connection);
    current = &connection;
    bool closed = false;
    const bool ok =
        process_request(stream, /*close_connection=*/true, closed, [](httplib::Request& request) {
          request.headers.erase("Accept-Encoding");   // a compressed stream would come in lumps
          request.headers.erase("Content-Encoding");  // what is compressed is no JSON
          request.headers.erase("Range");
          request.ranges.clear();
        });
    current = nullptr;
    return ok;
  }

  const std::shared_ptr<Https> https_;  // null: clear text
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_;
  const int64_t max_bytes_;
  const std::string busy_answer_;
  std::atomic<bool> stopping_{false};
};

// cpp-httplib would set SO_REUSEPORT, under which two servers share a port without an error.
void SetSocketOptions(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

// The body of a refusal is the error handler's.
httplib::Server::HandlerResponse RefuseStrangers(const httplib::Request&,
                                                 httplib::Response& response) {
  if (Https::Check(current->session(), kMethod).ok()) {
    return httplib::Server::HandlerResponse::Unhandled;
  }
  response.status = 403;
  return httplib::Server::HandlerResponse::Handled;
}

void Send(HttpAnswer answer, httplib::Response& response) {
  response.status = answer.status;
  if (answer.try_again) response.set_header("Retry-After", kRetryAfterSeconds);
  if (!answer.next_piece) return response.set_content(answer.body, answer.content_type);
  response.set_chunked_content_provider(
      answer.content_type, [next = std::move(answer.next_piece)](size_t, httplib::DataSink& sink) {
        const std::optional<std::string> piece = next();
        if (!piece.has_value()) {
          sink.done();
          return true;
        }
        if (piece->empty()) return sink.is_writable();
        return sink.write(piece->data(), piece->size());
      });
}

}  // namespace

struct HttpListener::Impl {
  explicit Impl(const Options& options)
      : http(options.max_body, options.busy_body, options.https) {}

  Server http;
  std::thread listener;
  int port = 0;

  void Configure(const Options& options, std::vector<Route> routes) {
    http.set_socket_options(SetSocketOptions);
    http.set_tcp_nodelay(true);
    http.set_payload_max_length(static_cast<size_t>(options.max_body));
    http.new_task_queue = [count = options.connections] { return new BoundedThreads(count); };
    http.set_error_handler(
        [error_body = options.error_body](const httplib::Request&, httplib::Response& response) {
          if (response.body.empty()) {
            response.set_content(error_body(response.status), "application/json");
          }
        });
    if (options.https != nullptr) http.set_pre_routing_handler(RefuseStrangers);
    for (Route& route : routes) {
      const auto handler = [run = std::move(route.handler)](const httplib::Request& request,
                                                            httplib::Response& response) {
        Send(run({.path = request.path,
                  .body = request.body,
                  .alive = [connection = current] { return connection->Alive(); }}),
             response);
      };
      if (route.post) {
        http.Post(route.pattern, handler);
      } else {
        http.Get(route.pattern, handler);
      }
    }
  }
};

HttpListener::HttpListener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(Options options,
                                                                  std::vector<Route> routes) {
  auto impl = std::make_unique<Impl>(options);
  impl->Configure(options, std::move(routes));
  if (options.port == 0) {
    impl->port = impl->http.bind_to_any_port(options.host);
  } else if (impl->http.bind_to_port(options.host, options.port)) {
    impl->port = options.port;
  }
  if (impl->port <= 0) {
    return absl::UnavailableError(
        absl::StrFormat("the HTTP door cannot listen on %s:%d", options.host, options.port));
  }
  impl->listener = std::thread([http = &impl->http] { http->listen_after_bind(); });
  // A stop before the loop runs would be lost, and the join would then hang.
  while (!impl->http.is_running()) std::this_thread::yield();
  return std::unique_ptr<HttpListener>(new HttpListener(std::move(impl)));
}

HttpListener::~HttpListener() {
  impl_->http.StopReading();
  impl_->http.stop();
  impl_->listener.join();
}

int HttpListener::port() const { return impl_->port; }

}  // namespace palimpsest::inference
