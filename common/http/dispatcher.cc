#include "common/http/dispatcher.h"

#include <httplib.h>

#include <utility>

#include "absl/strings/str_cat.h"

// The only file of a server that knows cpp-httplib.
namespace palimpsest {
namespace {

constexpr char kRetryAfterSeconds[] = "1";

// Of the request that this thread is answering.
thread_local Connection* current = nullptr;

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

void Give(HttpAnswer answer, httplib::Response& response) {
  response.status = answer.status;
  if (answer.try_again) response.set_header("Retry-After", kRetryAfterSeconds);
  for (const auto& [name, value] : answer.headers) response.set_header(name, value);
  if (!answer.next_piece) {
    response.set_content("", answer.type);
    response.body = std::move(answer.body);
    return;
  }
  response.set_chunked_content_provider(
      answer.type, [next = std::move(answer.next_piece)](size_t, httplib::DataSink& sink) {
        const std::optional<std::string> piece = next();
        if (!piece.has_value()) {
          sink.done();
          return true;
        }
        if (piece->empty()) return sink.is_writable();
        return sink.write(piece->data(), piece->size());
      });
}

HttpRequest Taken(const httplib::Request& request) {
  HttpRequest taken{.path = request.path, .body = request.body, .alive = [connection = current] {
                      return connection->Alive();
                    }};
  for (const auto& [name, value] : request.params) taken.parameters[name] = value;
  return taken;
}

}  // namespace

class Dispatcher::Server final : public httplib::Server {
 public:
  Server(Dispatcher::Options options, std::vector<HttpRoute> routes)
      : options_(std::move(options)) {
    svr_sock_ = 0;  // of no use, but without one chunks are not written: it thinks that it stops
    set_payload_max_length(static_cast<size_t>(options_.max_body));
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      const absl::Status may = options_.may(*current, request.path);
      if (may.ok()) return HandlerResponse::Unhandled;
      Give(options_.refusal(403, std::string(may.message())), response);
      response.status = 403;
      return HandlerResponse::Handled;
    });
    set_error_handler([this](const httplib::Request&, httplib::Response& response) {
      if (!response.body.empty()) return;
      const int status = response.status;
      Give(options_.refusal(status, ""), response);
      response.status = status;
    });
    for (HttpRoute& route : routes) Add(std::move(route));
  }

  void Answer(Connection& connection) {
    SocketStream stream(connection);
    current = &connection;
    bool closed = false;
    process_request(stream, /*close_connection=*/true, closed, [this](httplib::Request& request) {
      if (!options_.compress) request.headers.erase("Accept-Encoding");
      request.headers.erase("Content-Encoding");  // a few bytes could be a body without end
      request.headers.erase("Range");
      request.ranges.clear();
    });
    current = nullptr;
    if (!connection.TooLong()) return;  // else not even the first line came to its end
    HttpAnswer answer = options_.refusal(414, "");
    answer.status = 414;
    connection.WriteAll(Raw(answer, "URI Too Long"));
  }

 private:
  void Add(HttpRoute route) {
    Handler handler = [run = std::move(route.handler)](const httplib::Request& request,
                                                       httplib::Response& response) {
      if (current->Handling()) Give(run(Taken(request)), response);
    };
    if (route.post) {
      Post(route.pattern, std::move(handler));
    } else {
      Get(route.pattern, std::move(handler));
    }
  }

  const Dispatcher::Options options_;
};

Dispatcher::Dispatcher(Options options, std::vector<HttpRoute> routes)
    : server_(std::make_unique<Server>(std::move(options), std::move(routes))) {}
Dispatcher::~Dispatcher() = default;

void Dispatcher::Answer(Connection& connection) { server_->Answer(connection); }

std::string Dispatcher::Raw(const HttpAnswer& answer, const std::string& reason) {
  return absl::StrCat(
      "HTTP/1.1 ", answer.status, " ", reason, "\r\n",
      answer.try_again ? absl::StrCat("Retry-After: ", kRetryAfterSeconds, "\r\n") : "",
      "Content-Type: ", answer.type,
      "\r\nConnection: close\r\nContent-Length: ", answer.body.size(), "\r\n\r\n", answer.body);
}

}  // namespace palimpsest
