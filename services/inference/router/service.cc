#include "services/inference/router/service.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"
#include "services/inference/router/relay.h"

namespace palimpsest::inference {
namespace {

constexpr int32_t kMostCounted = 4096;  // samples of one request, as load

std::string_view BytesOf(const google::protobuf::RepeatedField<int32_t>& ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)};
}

// The prompt alone: all groups and refills of it go where its pages are.
uint64_t KeyOf(const v1::GenerateRequest& request) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kPromptIds:
      return AffinityKey(BytesOf(request.prompt_ids().ids()));
    case v1::GenerateRequest::kPromptText:
      return AffinityKey(request.prompt_text());
    case v1::GenerateRequest::kPromptChat:
      return AffinityKey(request.prompt_chat().SerializeAsString());
    default:
      return 0;
  }
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* RouterService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const int32_t count = request->n() == 0 ? 1 : request->n();
  Errand errand{.wish = {.key = KeyOf(*request),
                         .samples = std::clamp(count, 1, kMostCounted),
                         .min_version = request->min_policy_version()},
                .id = request->request_id(),
                .first = request->first_sample(),
                .count = count,
                .start = [copy = std::make_shared<const v1::GenerateRequest>(*request)](
                             Stub& stub, grpc::ClientContext* call, Errand::Reactor* reactor) {
                  stub.async()->Generate(call, copy.get(), reactor);
                }};
  return Relay::Start(std::move(errand), *context, fleet_, telemetry_, options_.longest_call);
}

grpc::Status RouterService::GetServerInfo(grpc::ServerContext*,
                                          const v1::InferenceServiceGetServerInfoRequest* request,
                                          v1::InferenceServiceGetServerInfoResponse* response) {
  if (request->revision() != v1::CONTRACT_REVISION_CURRENT) {
    return ToGrpc(absl::FailedPreconditionError(
        absl::StrFormat("revision=%d: this router speaks revision %d", request->revision(),
                        static_cast<int>(v1::CONTRACT_REVISION_CURRENT))));
  }
  *response = fleet_.Describe();
  *response->mutable_server() = options_.info;
  if (draining_) response->set_state(v1::SERVING_STATE_DRAINING);
  return grpc::Status::OK;
}

std::unique_ptr<grpc::ClientContext> RouterService::ContextFor(
    const grpc::ServerContext& context) const {
  std::unique_ptr<grpc::ClientContext> call = grpc::ClientContext::FromServerContext(context);
  PassOn(context, options_.longest_call, *call);
  return call;
}

void RouterService::Note(const grpc::ServerContext& context, const ReplicaPtr& replica,
                         const grpc::Status& status) {
  const bool by_caller = context.IsCancelled();
  telemetry_.Asked(replica->name, OutcomeOf(status, by_caller));
  if (IsLoss(status, by_caller)) fleet_.Doubt(replica);
}

grpc::Status RouterService::Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) {
  const Wish wish{.key = AffinityKey(BytesOf(request->ids())),
                  .min_version = request->min_policy_version()};
  return AskAny(*context, wish, "", &Stub::Score, *request, response);
}

grpc::Status RouterService::Tokenize(grpc::ServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) {
  const Wish wish{.key = AffinityKey(request->SerializeAsString())};
  return AskAny(*context, wish, "", &Stub::Tokenize, *request, response);
}

grpc::Status RouterService::Detokenize(grpc::ServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) {
  const Wish wish{.key = AffinityKey(BytesOf(request->ids()))};
  return AskAny(*context, wish, "", &Stub::Detokenize, *request, response);
}

}  // namespace palimpsest::inference
