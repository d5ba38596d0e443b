#include "services/inference/http/http_door.h"

#include "absl/strings/str_format.h"
#include "common/http/listener.h"
#include "common/rpc/listen.h"
#include "common/rpc/server.h"
#include "services/inference/http/api.h"
#include "services/inference/http/errors.h"
#include "services/inference/http/local_upstream.h"
#include "services/inference/http/remote_upstream.h"

namespace palimpsest::inference {
namespace {

constexpr char kMethod[] = "/v1";  // of the table of who may call what: one row for all paths
constexpr int64_t kHeaderBytes = 64 * 1024;

// Where a door is, and whose.
struct Place {
  std::string daemon;  // its section of the YAML
  std::string run;     // its name
  const HttpSection& http;
  const ListenSection& serve;
  const TlsSection& tls;
};

OpenAiApi::Options ApiOptions(const Place& place, int reader_queue,
                              std::function<void()> too_slow) {
  return {.model = place.http.model.empty() ? place.run : place.http.model,
          .deadline = place.http.deadline,
          .reader_queue = reader_queue,
          .too_slow = std::move(too_slow)};
}

// Who reaches no path of ours: too many, strangers, what was not understood as HTTP.
absl::Status Refused(const std::string& daemon, int connections, int http_status) {
  if (http_status == 404) return absl::NotFoundError("no such path or method");
  if (http_status == 403) {
    return absl::PermissionDeniedError("the client's certificate is of no role for this");
  }
  if (http_status == 413) {
    return absl::InvalidArgumentError(
        absl::StrFormat("body: larger than %s.http.max_body", daemon));
  }
  if (http_status == 429) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d requests are being answered, %s.http.connections", connections, daemon));
  }
  return http_status < 500 ? absl::InvalidArgumentError("request: is not understood")
                           : absl::InternalError("the request could not be answered");
}

HttpLimits LimitsOf(const HttpSection& c) {
  return {.connections = c.connections,
          .max_body = c.max_body,
          .max_bytes = c.max_body + kHeaderBytes,
          .send_silence = absl::Seconds(5),
          .send_whole = absl::Seconds(30),
          .take_silence = absl::Seconds(10),
          .send_in_peace = absl::Seconds(5)};
}

HttpListener::Options ListenerOptions(const Place& place, const HostPort& at,
                                      std::shared_ptr<Https> https) {
  return {.host = at.host,
          .port = at.port,
          .limits = LimitsOf(place.http),
          .refusal =
              [daemon = place.daemon, connections = place.http.connections](int status,
                                                                            const std::string&) {
                return ErrorAnswer(Refused(daemon, connections, status));
              },
          .https = std::move(https),
          .methods = {kMethod}};
}

class HttpDoor final : public Door {
 public:
  HttpDoor(OpenAiApi::Options options, std::unique_ptr<Upstream> upstream, Clock& clock)
      : upstream_(std::move(upstream)), api_(std::move(options), *upstream_, clock) {}

  absl::Status Listen(const Place& place, std::shared_ptr<Https> https) {
    ASSIGN_OR_RETURN(const HostPort at, ReadPlace(place.daemon, "http.listen", place.http.listen,
                                                  place.serve, place.tls));
    ASSIGN_OR_RETURN(listener_,
                     HttpListener::Start(ListenerOptions(place, at, std::move(https)), Routes()));
    RpcServerConfig seen = place.serve.rpc;
    seen.host = at.host;
    address_ = JoinHostPort(AdvertisedHost(seen), listener_->port());
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }

 private:
  std::vector<HttpRoute> Routes() {
    using Request = const HttpRequest&;
    return {{false, "/v1/models", [this](Request r) { return api_.ListModels(r); }},
            {false, "/v1/models/.+", [this](Request r) { return api_.GetModel(r); }},
            {true, "/v1/completions", [this](Request r) { return api_.Complete(r); }},
            {true, "/v1/chat/completions", [this](Request r) { return api_.Chat(r); }}};
  }

  const std::unique_ptr<Upstream> upstream_;
  OpenAiApi api_;
  std::string address_;
  std::unique_ptr<HttpListener> listener_;  // last: its threads use the above
};

absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadTokenizer(const std::string& folder) {
  if (folder.empty()) return nullptr;
  auto tokenizer = Tokenizer::Load(folder);
  if (tokenizer.ok()) return std::shared_ptr<const Tokenizer>(*std::move(tokenizer));
  return absl::InvalidArgumentError(absl::StrFormat("router.http.tokenizer=%s: %s", folder,
                                                    std::string(tokenizer.status().message())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> OpenHttpDoor(const InferenceDaemonConfig& config,
                                                   const DoorParts& parts) {
  const InferenceConfig& c = config.inference;
  if (c.http.listen.empty()) return nullptr;
  const Place place{"inference", config.run.name, c.http, c.serve, config.tls};
  auto door = std::make_unique<HttpDoor>(
      ApiOptions(place, c.reader_queue,
                 [&telemetry = parts.telemetry] { telemetry.ReaderTooSlow(); }),
      std::make_unique<LocalUpstream>(parts.server, parts.serving), parts.clock);
  RETURN_IF_ERROR(door->Listen(place, parts.https));
  return door;
}

void Bind(Binder& b, FleetHttpSection& c) {
  Bind(b, c.http);
  b.Field("tokenizer", c.tokenizer,
          "model folder that names tokens in logprobs; empty: they are named by their ids");
  b.Field("reader_queue", c.reader_queue, "streamed messages that a slow reader may be behind");
}

absl::Status Validate(const FleetHttpSection& c, const ListenSection& serve,
                      const TlsSection& tls) {
  RETURN_IF_ERROR(Validate("router", c.http, serve, tls));
  if (c.reader_queue >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("router.http.reader_queue=%d is below 1", c.reader_queue));
}

absl::StatusOr<std::unique_ptr<Door>> OpenFleetDoor(const FleetHttpSection& config,
                                                    const FleetDoorParts& parts) {
  if (config.http.listen.empty()) return nullptr;
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer, ReadTokenizer(config.tokenizer));
  const Place place{"router", parts.run, config.http, parts.serve, parts.tls};
  auto door = std::make_unique<HttpDoor>(
      ApiOptions(place, config.reader_queue, [] {}),
      std::make_unique<RemoteUpstream>(parts.channel, std::move(tokenizer)), parts.clock);
  RETURN_IF_ERROR(door->Listen(place, parts.https));
  return door;
}

}  // namespace palimpsest::inference
