#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/config.h"
#include "common/rpc/status.h"
#include "common/rpc/tls.h"
#include "common/tokenizer/utf8.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tools/backend.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kGenerateDeadline = absl::Hours(6);  // a long generation on a busy server
constexpr absl::Duration kScoreDeadline = absl::Minutes(30);

class RemoteBackend final : public Backend {
 public:
  RemoteBackend(std::shared_ptr<grpc::Channel> channel, std::optional<int64_t> min_version)
      : stub_(v1::InferenceService::NewStub(std::move(channel))), min_version_(min_version) {}

  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) override {
    if (!IsValidUtf8(text)) return absl::InvalidArgumentError("text: is not UTF-8");
    RETURN_IF_ERROR(ShakeHands());
    v1::TokenizeRequest request;
    request.set_text(text);
    request.set_add_special_tokens(add_special_tokens);
    v1::TokenizeResponse response;
    RETURN_IF_ERROR(FromGrpc(stub_->Tokenize(MakeContext(config_).get(), request, &response)));
    return std::vector<int32_t>(response.ids().begin(), response.ids().end());
  }

  // The chat comes from JSON, which is UTF-8.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(const Chat& chat) override {
    RETURN_IF_ERROR(ShakeHands());
    v1::TokenizeRequest request;
    v1::ChatPrompt& proto = *request.mutable_chat();
    proto.set_add_generation_prompt(chat.add_generation_prompt);
    proto.set_date_string(chat.date_string);
    if (chat.enable_thinking) proto.set_enable_thinking(*chat.enable_thinking);
    for (const ChatMessage& message : chat.messages) {
      v1::ChatMessage& added = *proto.add_messages();
      added.set_role(message.role);
      added.set_content(message.content);
      if (message.reasoning_content) added.set_reasoning_content(*message.reasoning_content);
    }
    v1::TokenizeResponse response;
    RETURN_IF_ERROR(FromGrpc(stub_->Tokenize(MakeContext(config_).get(), request, &response)));
    return std::vector<int32_t>(response.ids().begin(), response.ids().end());
  }

  absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids,
                                     bool skip_special_tokens) override {
    RETURN_IF_ERROR(ShakeHands());
    v1::DetokenizeRequest request;
    request.mutable_ids()->Add(ids.begin(), ids.end());
    request.set_skip_special_tokens(skip_special_tokens);
    v1::DetokenizeResponse response;
    RETURN_IF_ERROR(FromGrpc(stub_->Detokenize(MakeContext(config_).get(), request, &response)));
    return response.text();
  }

  absl::StatusOr<Scored> Score(const ScoreAsk& ask) override {
    RETURN_IF_ERROR(ShakeHands());
    v1::ScoreRequest request;
    request.mutable_ids()->Add(ask.ids.begin(), ask.ids.end());
    for (const context::Event& event : ask.events) *request.add_events() = wire::ToProto(event);
    request.set_temperature(ask.temperature);
    if (min_version_) request.set_min_policy_version(*min_version_);
    v1::ScoreResponse response;
    const auto context = MakeContext(config_);
    SetTimeout(*context, kScoreDeadline);
    RETURN_IF_ERROR(FromGrpc(stub_->Score(context.get(), request, &response)));
    return Scored{.logprobs = {response.logprobs().begin(), response.logprobs().end()},
                  .version = PolicyVersion(response.policy_version())};
  }

  absl::StatusOr<rl::Rollout> Generate(const GenerateAsk& ask) override {
    RETURN_IF_ERROR(ShakeHands());
    v1::GenerateRequest request;
    request.set_request_id(
        absl::StrFormat("palimpsest-%d-%d", getpid(), absl::ToUnixNanos(absl::Now())));
    request.mutable_prompt_ids()->mutable_ids()->Add(ask.prompt.begin(), ask.prompt.end());
    *request.mutable_sampling() = wire::ToProto(ask.sampling);
    *request.mutable_context() = wire::ToProto(ask.context);
    if (min_version_) request.set_min_policy_version(*min_version_);
    const auto context = MakeContext(config_);
    SetTimeout(*context, kGenerateDeadline);
    const auto stream = stub_->Generate(context.get(), request);
    absl::StatusOr<rl::Rollout> result =
        absl::UnavailableError("the stream ended without a terminal message");
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
      if (response.has_finished()) result = wire::FromProto(response.finished().rollout());
      if (response.has_error()) {
        result = absl::Status(static_cast<absl::StatusCode>(response.error().code()),
                              response.error().message());
      }
    }
    RETURN_IF_ERROR(FromGrpc(stream->Finish()));
    return result;
  }

 private:
  // The revision of the contracts is compared before anything else is asked.
  absl::Status ShakeHands() {
    if (known_) return absl::OkStatus();
    v1::InferenceServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::InferenceServiceGetServerInfoResponse response;
    RETURN_IF_ERROR(FromGrpc(stub_->GetServerInfo(MakeContext(config_).get(), request, &response)));
    if (response.server().revision() != v1::CONTRACT_REVISION_CURRENT) {
      return absl::FailedPreconditionError(
          absl::StrFormat("the server speaks revision=%d, this command %d",
                          response.server().revision(), int{v1::CONTRACT_REVISION_CURRENT}));
    }
    if (!response.has_model()) return absl::UnavailableError("the server has no weights yet");
    known_ = true;
    return absl::OkStatus();
  }

  const ChannelConfig config_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const std::optional<int64_t> min_version_;
  bool known_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeRemoteBackend(const std::string& server,
                                                           std::optional<int64_t> min_version,
                                                           const std::string& tls) {
  ASSIGN_OR_RETURN(const HostPort place, ParseHostPort("--server", server));
  if (place.port == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--server %s: a port to connect to is not 0", server));
  }
  ASSIGN_OR_RETURN(const Tls ours, Tls::Open({.folder = tls}, Role::kClient, SystemClock()));
  ASSIGN_OR_RETURN(const auto channel,
                   MakeChannel(server, ChannelConfig{}, ours.Peer(Role::kInference)));
  return std::make_unique<RemoteBackend>(channel, min_version);
}

}  // namespace palimpsest::tools
