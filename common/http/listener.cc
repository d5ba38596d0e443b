#include "common/http/listener.h"

#include <openssl/ssl.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/http/connection.h"
#include "common/http/dispatcher.h"
#include "common/http/listening_socket.h"
#include "common/http/places.h"
#include "common/http/warm_threads.h"
#include "common/tls/https.h"

namespace palimpsest {
namespace {

constexpr int kLeaving = 4;  // threads of connections that lost their places and are being closed
constexpr absl::Duration kLeave = absl::Seconds(1);  // far longer than such a thread needs
constexpr absl::Duration kLook = absl::Milliseconds(1);
constexpr absl::Duration kAfterFailure = absl::Milliseconds(10);  // no descriptor, no memory

SSL_CTX* MakeContext(const std::shared_ptr<Https>& https) {
  if (https == nullptr) return nullptr;
  SSL_CTX* const context = SSL_CTX_new(TLS_server_method());
  https->Configure(context);
  return context;
}

std::string Refusal(const HttpRefusal& refusal, int status, const std::string& why,
                    const std::string& reason) {
  HttpAnswer answer = refusal(status, why);
  answer.status = status;
  answer.try_again = status == 429;
  return Dispatcher::Raw(answer, reason);
}

}  // namespace

struct HttpListener::Impl {
  Impl(Options given, std::vector<HttpRoute> routes)
      : options(std::move(given)),
        context(MakeContext(options.https), SSL_CTX_free),
        busy(Refusal(options.refusal, 429, "", "Too Many Requests")),
        dispatcher(
            {.max_body = options.limits.max_body,
             .compress = options.compress,
             .refusal = options.refusal,
             .may = [this](const Connection& c, const std::string& path) { return May(c, path); }},
            std::move(routes)),
        places(options.limits.connections),
        threads(options.limits.connections + kLeaving) {}

  absl::Status May(const Connection& connection, const std::string& path) const {
    if (context == nullptr) return absl::OkStatus();
    return Https::Check(connection.session(),
                        options.method_of ? options.method_of(path) : options.methods.front());
  }

  // What the client of a session is told if there is nothing here for it.
  absl::Status MayEnter(const Connection& connection) const {
    absl::Status refused = absl::PermissionDeniedError("nobody may call anything");
    for (const std::string& method : options.methods) {
      absl::Status may = Https::Check(connection.session(), method);
      if (may.ok()) return may;
      if (&method == &options.methods.front()) refused = std::move(may);
    }
    return refused;
  }

  void Serve(int accepted) {
    Connection connection(accepted, options.limits, places, stopping, context.get());
    if (context != nullptr) {
      if (!connection.Handshake()) return;
      if (const absl::Status may = MayEnter(connection); !may.ok()) {
        connection.WriteAll(Refusal(options.refusal, 403, std::string(may.message()), "Forbidden"));
        return;
      }
    }
    dispatcher.Answer(connection);
  }

  // Never waits for a client. When there is a place but no thread, one is on its way out, which no
  // client can hold up.
  void Admit(int accepted) {
    const absl::Time now = absl::Now();
    if (places.Take(accepted, now, now + options.limits.send_in_peace)) {
      do {
        if (threads.Start([this, accepted] { Serve(accepted); })) return;
        absl::SleepFor(kLook);
      } while (absl::Now() < now + kLeave);
      places.Leave(accepted);
    }
    // Under TLS a handshake would hold up the accepting thread: the end has to say it.
    Connection::TurnAway(accepted, context == nullptr ? busy : "");
  }

  void Accept() {
    while (!stopping) {
      const int accepted = accept4(listening.socket.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (accepted >= 0) {
        Admit(accepted);
      } else if (!stopping) {
        absl::SleepFor(kAfterFailure);
      }
    }
  }

  const Options options;
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context;
  const std::string busy;
  Dispatcher dispatcher;
  Places places;
  std::atomic<bool> stopping = false;
  ListeningSocket listening;
  WarmThreads threads;  // uses the above
  std::thread accepting;
};

HttpListener::HttpListener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(Options options,
                                                                  std::vector<HttpRoute> routes) {
  ASSIGN_OR_RETURN(ListeningSocket listening, ListenOnPort(options.host, options.port));
  auto impl = std::make_unique<Impl>(std::move(options), std::move(routes));
  impl->listening = std::move(listening);
  impl->accepting = std::thread([server = impl.get()] { server->Accept(); });
  return std::unique_ptr<HttpListener>(new HttpListener(std::move(impl)));
}

HttpListener::~HttpListener() {
  impl_->stopping = true;
  shutdown(impl_->listening.socket.get(), SHUT_RDWR);  // wakes accept4
  impl_->accepting.join();
  impl_->threads.Join();
}

int HttpListener::port() const { return impl_->listening.port; }

}  // namespace palimpsest
