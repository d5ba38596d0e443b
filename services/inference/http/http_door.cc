#include "services/inference/http/http_door.h"

#include "absl/strings/str_format.h"
#include "common/rpc/listen.h"
#include "common/rpc/server.h"
#include "services/inference/http/api.h"
#include "services/inference/http/errors.h"
#include "services/inference/server/service.h"

namespace palimpsest::inference {
namespace {

OpenAiApi::Options ApiOptions(const InferenceDaemonConfig& config, const DoorParts& parts) {
  const HttpSection& http = config.inference.http;
  return {.model = http.model.empty() ? config.run.name : http.model,
          .deadline = http.deadline,
          .reader_queue = config.inference.reader_queue,
          .too_slow = [&telemetry = parts.telemetry] { telemetry.ReaderTooSlow(); },
          .listen =
              [&server = parts.server](const v1::GenerateRequest& request, absl::Time deadline,
                                       const std::shared_ptr<GenerationReader>& reader) {
                return server.Listen(request, deadline, reader);
              }};
}

// What was not understood as HTTP, or is for no path of ours.
std::string BodyOf(int http_status) {
  if (http_status == 404) return ErrorBody(absl::NotFoundError("no such path or method"));
  if (http_status == 403) {
    return ErrorBody(
        absl::PermissionDeniedError("the client's certificate is of no role for this"));
  }
  if (http_status == 413) {
    return ErrorBody(absl::InvalidArgumentError("body: larger than inference.http.max_body"));
  }
  return ErrorBody(http_status < 500 ? absl::InvalidArgumentError("request: is not understood")
                                     : absl::InternalError("the request could not be answered"));
}

HttpListener::Options ListenerOptions(const HttpSection& http, const HostPort& place,
                                      std::shared_ptr<Https> https) {
  const absl::Status busy = absl::ResourceExhaustedError(absl::StrFormat(
      "%d requests are being answered, inference.http.connections", http.connections));
  return {.host = place.host,
          .port = place.port,
          .connections = http.connections,
          .max_body = http.max_body,
          .busy_body = ErrorBody(busy),
          .error_body = BodyOf,
          .https = std::move(https)};
}

class HttpDoor final : public Door {
 public:
  HttpDoor(const InferenceDaemonConfig& config, const DoorParts& parts)
      : api_(ApiOptions(config, parts), parts.serving, parts.clock) {}

  absl::Status Listen(const InferenceDaemonConfig& config, std::shared_ptr<Https> https) {
    const InferenceConfig& c = config.inference;
    ASSIGN_OR_RETURN(const HostPort place,
                     ReadPlace("inference", "http.listen", c.http.listen, c.serve, config.tls));
    ASSIGN_OR_RETURN(
        listener_, HttpListener::Start(ListenerOptions(c.http, place, std::move(https)), Routes()));
    RpcServerConfig seen = c.serve.rpc;
    seen.host = place.host;
    address_ = JoinHostPort(AdvertisedHost(seen), listener_->port());
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }

 private:
  std::vector<HttpListener::Route> Routes() {
    using Request = const HttpRequest&;
    return {{false, "/v1/models", [this](Request r) { return api_.ListModels(r); }},
            {false, "/v1/models/.+", [this](Request r) { return api_.GetModel(r); }},
            {true, "/v1/completions", [this](Request r) { return api_.Complete(r); }},
            {true, "/v1/chat/completions", [this](Request r) { return api_.Chat(r); }}};
  }

  OpenAiApi api_;
  std::string address_;
  std::unique_ptr<HttpListener> listener_;  // last: its threads use the above
};

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> OpenHttpDoor(const InferenceDaemonConfig& config,
                                                   const DoorParts& parts) {
  if (config.inference.http.listen.empty()) return nullptr;
  auto door = std::make_unique<HttpDoor>(config, parts);
  RETURN_IF_ERROR(door->Listen(config, parts.https));
  return door;
}

}  // namespace palimpsest::inference
