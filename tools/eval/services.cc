#include "tools/eval/services.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/random.h"
#include "common/context/state.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"
#include "palimpsest/v1/environment.grpc.pb.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tools/eval/live_slots.h"

namespace palimpsest::tools::eval {
namespace {

constexpr absl::Duration kQuick = absl::Seconds(20);
constexpr absl::Duration kEnvDeadline = absl::Minutes(3);  // some prompts take seconds to make
constexpr absl::Duration kGenerateDeadline = absl::Hours(1);
constexpr absl::Duration kLook = absl::Milliseconds(200);

v1::Split SplitOf(const std::string& name) {
  return name == "train" ? v1::SPLIT_TRAIN : name == "sft" ? v1::SPLIT_SFT : v1::SPLIT_HELDOUT;
}

// What a worker raised on is the environment's failure, and it is asked again.
absl::Status OfEnvironment(const char* call, const absl::Status& status) {
  if (!absl::IsInternal(status)) return status;
  return absl::AbortedError(
      absl::StrFormat("the environment failed in %s: %s", call, std::string(status.message())));
}

// A daemon wherever it is. Any thread.
template <class Service>
class Peer {
 public:
  using Stub = typename Service::Stub;
  Peer(Where where, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : where_(std::move(where)), credentials_(std::move(credentials)) {}

  // One attempt.
  template <class Fn>
  absl::Status Call(absl::Duration deadline, Fn&& call) const {
    ASSIGN_OR_RETURN(const std::shared_ptr<Stub> stub, Connected());
    const auto context = MakeContext(ChannelConfig{});
    SetTimeout(*context, deadline);
    const absl::Status status = FromGrpc(call(*stub, context.get()));
    if (absl::IsUnavailable(status)) Forget(stub);
    return status;
  }

 private:
  absl::StatusOr<std::shared_ptr<Stub>> Connected() const {
    const absl::MutexLock lock(&mu_);
    if (stub_ == nullptr) {
      ASSIGN_OR_RETURN(const std::string address, where_());
      ASSIGN_OR_RETURN(const auto channel, MakeChannel(address, ChannelConfig{}, credentials_));
      stub_ = Service::NewStub(channel);
    }
    return stub_;
  }
  void Forget(const std::shared_ptr<Stub>& stub) const {
    const absl::MutexLock lock(&mu_);
    if (stub_ == stub) stub_ = nullptr;
  }

  const Where where_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  mutable absl::Mutex mu_;
  mutable std::shared_ptr<Stub> stub_ ABSL_GUARDED_BY(mu_);
};

struct Peers {
  Peer<v1::InferenceService> inference;
  Peer<v1::EnvironmentService> env;
};

// A prompt is asked for once and kept.
class Prompts {
 public:
  struct Prompt {
    absl::Mutex mu;
    std::optional<v1::ResetResponse> reset ABSL_GUARDED_BY(mu);
    std::optional<int32_t> tokens ABSL_GUARDED_BY(mu);
  };

  explicit Prompts(const Peers& peers) : peers_(peers) {}

  absl::StatusOr<v1::ResetResponse> Reset(const AnswerKey& key) {
    Prompt& prompt = Find(key);
    const absl::MutexLock lock(&prompt.mu);
    if (prompt.reset) return *prompt.reset;
    v1::ResetRequest request;
    request.set_task(key.task);
    request.set_split(SplitOf(key.split));
    request.set_seed(key.seed);
    request.set_index(key.index);
    v1::ResetResponse response;
    const absl::Status status =
        peers_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
          return stub.Reset(context, request, &response);
        });
    RETURN_IF_ERROR(OfEnvironment("Reset", status));
    if (response.prompt_case() == v1::ResetResponse::PROMPT_NOT_SET) {
      return absl::AbortedError("the environment's answer to Reset holds no prompt");
    }
    prompt.reset = response;
    return response;
  }

  // Tokens of the prompt; after Reset.
  absl::StatusOr<int32_t> Tokens(const AnswerKey& key) {
    Prompt& prompt = Find(key);
    const absl::MutexLock lock(&prompt.mu);
    if (prompt.tokens) return *prompt.tokens;
    v1::TokenizeRequest request;
    if (prompt.reset->has_chat()) {
      *request.mutable_chat() = prompt.reset->chat();
    } else {
      request.set_text(prompt.reset->text());
    }
    v1::TokenizeResponse response;
    RETURN_IF_ERROR(peers_.inference.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
      return stub.Tokenize(context, request, &response);
    }));
    prompt.tokens = response.ids_size();
    return response.ids_size();
  }

 private:
  Prompt& Find(const AnswerKey& key) {
    const absl::MutexLock lock(&mu_);
    return prompts_[{key.task, key.index}];
  }

  const Peers& peers_;
  absl::Mutex mu_;
  std::map<std::pair<std::string, int64_t>, Prompt> prompts_ ABSL_GUARDED_BY(mu_);
};

// Reads the answers to a request of one sample.
class OneSample {
 public:
  void Take(const v1::GenerateResponse& response) {
    if (response.has_finished()) result_ = response.finished();
    // Accepted and not finished: whatever the code is, the question made sense.
    if (response.has_error()) {
      result_ = absl::UnavailableError(absl::StrFormat("the generation failed (code %d): %s",
                                                       response.error().code(),
                                                       response.error().message()));
    }
  }
  // `ended`: how the stream did.
  absl::StatusOr<v1::GenerationFinished> Finish(const absl::Status& ended) && {
    if (!result_.ok() && !ended.ok()) return ended;
    return std::move(result_);
  }

 private:
  absl::StatusOr<v1::GenerationFinished> result_ =
      absl::UnavailableError("the stream ended without an end of the sample");
};

class GrpcAsker final : public Asker {
 public:
  GrpcAsker(const Plan& plan, const Peers& peers, int64_t version)
      : plan_(plan),
        peers_(peers),
        version_(version),
        prompts_(peers),
        id_(absl::StrFormat("eval-%d-%d", absl::ToUnixNanos(SystemClock().Now()), getpid())) {}

  absl::StatusOr<Answer> Ask(const AnswerKey& key, const Policy& policy, int attempt) override {
    ASSIGN_OR_RETURN(const v1::ResetResponse prompt, prompts_.Reset(key));
    Answer answer{.key = key, .tags = {prompt.tags().begin(), prompt.tags().end()}};
    ASSIGN_OR_RETURN(const int32_t room, Room(key, policy, prompt));
    answer.finish = "length";
    if (room > 0) {
      RETURN_IF_ERROR(Generate(key, policy, attempt, prompt, room, answer));
    }
    RETURN_IF_ERROR(Score(prompt, answer));
    return answer;
  }

 private:
  // Tokens that the answer may have; <= 0: none.
  absl::StatusOr<int32_t> Room(const AnswerKey& key, const Policy& policy,
                               const v1::ResetResponse& prompt) {
    const int32_t most = plan_.max_tokens > 0 ? plan_.max_tokens : prompt.max_response();
    if (most <= 0) {
      return absl::InvalidArgumentError(
          "the environment does not say how long an answer may be; give --max-tokens");
    }
    if (policy.length == 0) return most;
    ASSIGN_OR_RETURN(const int32_t tokens, prompts_.Tokens(key));
    return std::min(most, policy.length - tokens);
  }

  v1::GenerateRequest Request(const AnswerKey& key, const Policy& policy, int attempt,
                              const v1::ResetResponse& prompt, int32_t room) const {
    v1::GenerateRequest request;
    // Parts of the id have no '/': tasks may.
    request.set_request_id(absl::StrFormat("%s-%016x-%d", id_,
                                           MixSeed({Meaning(key.task), uint64_t(key.index),
                                                    Meaning(key.policy), uint64_t(key.sample)}),
                                           attempt));
    if (prompt.has_chat()) {
      *request.mutable_prompt_chat() = prompt.chat();
    } else {
      request.set_prompt_text(prompt.text());
    }
    request.set_n(1);
    request.set_first_sample(key.sample);
    rl::SamplingParams sampling{.temperature = plan_.temperature, .max_tokens = room};
    sampling.stop_strings.assign(prompt.stops().begin(), prompt.stops().end());
    // The same under every policy.
    sampling.seed = MixSeed(
        {key.seed, Meaning("eval"), Meaning(key.task), Meaning(key.split), uint64_t(key.index)});
    *request.mutable_sampling() = wire::ToProto(sampling);
    if (!std::holds_alternative<context::NoTrigger>(policy.context.trigger)) {
      *request.mutable_context() = wire::ToProto(policy.context);
    }
    if (policy.messages) *request.mutable_budget_messages() = wire::ToProto(*policy.messages);
    request.set_client("eval");
    request.set_min_policy_version(version_);
    return request;
  }

  absl::Status Generate(const AnswerKey& key, const Policy& policy, int attempt,
                        const v1::ResetResponse& prompt, int32_t room, Answer& answer) const {
    const v1::GenerateRequest request = Request(key, policy, attempt, prompt, room);
    OneSample sample;
    const absl::Status ended =
        peers_.inference.Call(kGenerateDeadline, [&](auto& stub, grpc::ClientContext* context) {
          const auto stream = stub.Generate(context, request);
          for (v1::GenerateResponse response; stream->Read(&response);) sample.Take(response);
          return stream->Finish();
        });
    ASSIGN_OR_RETURN(const v1::GenerationFinished finished, std::move(sample).Finish(ended));
    const absl::StatusOr<rl::Rollout> rollout = wire::FromProto(finished.rollout());
    if (!rollout.ok()) {
      return absl::DataLossError(absl::StrFormat("the server's rollout makes no sense: %s",
                                                 std::string(rollout.status().message())));
    }
    for (const rl::Span& span : rollout->spans) {
      if (span.version.value() == version_) continue;
      return absl::FailedPreconditionError(
          absl::StrFormat("the server's weights were of version %d and are of %d now: an "
                          "evaluation is of one",
                          version_, span.version.value()));
    }
    ASSIGN_OR_RETURN(const LiveSlots slots, SlotsWhileDrawn(*rollout));
    answer.text = finished.text();
    answer.finish = rollout->finish_reason == rl::FinishReason::kStop ? "stop" : "length";
    answer.prompt_tokens = rollout->prompt_tokens;
    answer.tokens = static_cast<int32_t>(rollout->tokens.size()) - rollout->prompt_tokens;
    answer.events = static_cast<int32_t>(rollout->events.size());
    answer.mean_slots = slots.mean;
    answer.peak_slots = slots.peak;
    answer.seconds = rollout->seconds;
    return absl::OkStatus();
  }

  absl::Status Score(const v1::ResetResponse& prompt, Answer& answer) const {
    v1::EnvironmentServiceScoreRequest request;
    *request.mutable_episode() = prompt.episode();
    request.set_response_text(answer.text);
    request.set_outcome(answer.finish == "stop" ? v1::OUTCOME_OK : v1::OUTCOME_TRUNCATED);
    v1::EnvironmentServiceScoreResponse verdict;
    const absl::Status status =
        peers_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
          return stub.Score(context, request, &verdict);
        });
    RETURN_IF_ERROR(OfEnvironment("Score", status));
    if (verdict.outcome() != v1::OUTCOME_OK) {
      return absl::AbortedError(absl::StrFormat("the environment could not judge (%s): %s",
                                                v1::Outcome_Name(verdict.outcome()),
                                                verdict.reason()));
    }
    if (!verdict.has_reward() || !std::isfinite(verdict.reward())) {
      return absl::AbortedError("the environment's reward is absent or not finite");
    }
    answer.reward = verdict.reward();
    answer.reason = verdict.reason();
    return absl::OkStatus();
  }

  const Plan& plan_;
  const Peers& peers_;
  const int64_t version_;
  Prompts prompts_;
  const std::string id_;  // of this process: requests of an earlier one are others
};

class GrpcServices final : public Services {
 public:
  GrpcServices(Place server, Place env)
      : peers_{.inference = {std::move(server.where), server.tls.Peer(Role::kInference)},
               .env = {std::move(env.where), env.tls.Peer(Role::kEnv)}} {}

  absl::Status Meet(absl::Time deadline, Clock& clock) override {
    for (;;) {
      absl::Status status = MeetServer();
      if (status.ok()) status = MeetEnv();
      if (!absl::IsUnavailable(status) || clock.Now() >= deadline) return status;
      clock.SleepFor(kLook);
    }
  }
  const ModelFacts& model() const override { return model_; }
  const std::vector<TaskFacts>& tasks() const override { return tasks_; }
  std::unique_ptr<Asker> MakeAsker(const Plan& plan) override {
    return std::make_unique<GrpcAsker>(plan, peers_, model_.policy_version);
  }

 private:
  absl::Status MeetServer() {
    v1::InferenceServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::InferenceServiceGetServerInfoResponse response;
    RETURN_IF_ERROR(peers_.inference.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
      return stub.GetServerInfo(context, request, &response);
    }));
    if (response.state() != v1::SERVING_STATE_SERVING || !response.has_model()) {
      return absl::UnavailableError("the inference daemon does not serve yet");
    }
    if (!response.has_tokenizer()) {
      return absl::FailedPreconditionError("the inference daemon has no tokenizer");
    }
    const v1::ModelShape& shape = response.model();
    model_ = {.architecture = shape.architecture(),
              .layers = shape.layers(),
              .hidden = shape.hidden(),
              .kv_heads = shape.kv_heads(),
              .head_dim = shape.head_dim(),
              .dtype = shape.dtype(),
              .policy_version = response.policy_version(),
              .run = response.server().run()};
    return absl::OkStatus();
  }

  absl::Status MeetEnv() {
    v1::EnvironmentServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::EnvironmentServiceGetServerInfoResponse response;
    RETURN_IF_ERROR(peers_.env.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
      return stub.GetServerInfo(context, request, &response);
    }));
    if (response.state() != v1::SERVING_STATE_SERVING) {
      return absl::UnavailableError("the environment daemon does not serve yet");
    }
    v1::ListTasksResponse listed;
    RETURN_IF_ERROR(peers_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
      return stub.ListTasks(context, v1::ListTasksRequest(), &listed);
    }));
    tasks_.clear();
    for (const v1::Task& task : listed.tasks()) {
      tasks_.push_back({.name = task.name(),
                        .multi_turn = task.multi_turn(),
                        .train_size = task.train_size(),
                        .sft_size = task.sft_size(),
                        .heldout_size = task.heldout_size()});
    }
    return absl::OkStatus();
  }

  const Peers peers_;
  ModelFacts model_;
  std::vector<TaskFacts> tasks_;
};

}  // namespace

absl::Status CheckTasks(const Plan& plan, const std::vector<TaskFacts>& tasks) {
  for (const TaskShare& share : plan.tasks) {
    const auto task = std::find_if(tasks.begin(), tasks.end(),
                                   [&](const TaskFacts& t) { return t.name == share.name; });
    if (task == tasks.end()) {
      const std::string known = absl::StrJoin(
          tasks, ", ", [](std::string* out, const TaskFacts& t) { out->append(t.name); });
      return absl::InvalidArgumentError(
          absl::StrFormat("--tasks: there is no \"%s\"; there are: %s", share.name, known));
    }
    if (task->multi_turn) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--tasks: \"%s\" has several turns, which are not served", share.name));
    }
    const int64_t size = plan.split == "train" ? task->train_size
                         : plan.split == "sft" ? task->sft_size
                                               : task->heldout_size;
    if (size == 0 || share.prompts <= size) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("--n: %d prompts of \"%s\" are asked for, its split %s has %d",
                        share.prompts, share.name, plan.split, size));
  }
  return absl::OkStatus();
}

std::unique_ptr<Services> ConnectServices(Place server, Place env) {
  return std::make_unique<GrpcServices>(std::move(server), std::move(env));
}

}  // namespace palimpsest::tools::eval
