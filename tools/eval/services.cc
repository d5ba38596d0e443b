#include "tools/eval/services.h"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/eval/answering.h"
#include "tools/eval/daemon.h"
#include "tools/eval/grpc_peers.h"

namespace palimpsest::tools::eval {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(200);

class GrpcServices final : public Services {
 public:
  GrpcServices(Place server, Place env)
      : daemons_{.inference = {std::move(server.where), server.tls.Peer(Role::kInference)},
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
    peers_.emplace(daemons_, model_.policy_version);
    return eval::MakeAsker(
        plan, model_, *peers_,
        absl::StrFormat("eval-%d-%d", absl::ToUnixNanos(SystemClock().Now()), getpid()));
  }

 private:
  absl::Status MeetServer() {
    v1::InferenceServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::InferenceServiceGetServerInfoResponse response;
    RETURN_IF_ERROR(daemons_.inference.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
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
              .max_position = shape.max_position(),
              .stop_ids = {shape.stop_ids().begin(), shape.stop_ids().end()},
              .dtype = shape.dtype(),
              .policy_version = response.policy_version(),
              .run = response.server().run()};
    return absl::OkStatus();
  }

  absl::Status MeetEnv() {
    v1::EnvironmentServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::EnvironmentServiceGetServerInfoResponse response;
    RETURN_IF_ERROR(daemons_.env.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
      return stub.GetServerInfo(context, request, &response);
    }));
    if (response.state() != v1::SERVING_STATE_SERVING) {
      return absl::UnavailableError("the environment daemon does not serve yet");
    }
    v1::ListTasksResponse listed;
    RETURN_IF_ERROR(daemons_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
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

  const Daemons daemons_;
  ModelFacts model_;
  std::vector<TaskFacts> tasks_;
  std::optional<GrpcPeers> peers_;
};

// What a policy does must be possible in the task: turns are compacted where there are some, and
// attempts are made at once.
absl::Status CheckTurns(const Plan& plan, const TaskFacts& task) {
  for (const Policy& policy : plan.policies) {
    const bool turns = std::holds_alternative<context::Turns>(policy.context.trigger);
    const bool aggregates = policy.aggregation.rounds > 0;
    if (!(turns && !task.multi_turn) && !(aggregates && task.multi_turn)) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("--policy %s: %s, but \"%s\" has %s", policy.name,
                        turns ? "it compacts turns" : "it aggregates attempts", task.name,
                        turns ? "one" : "several turns"));
  }
  return absl::OkStatus();
}

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
    RETURN_IF_ERROR(CheckTurns(plan, *task));
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
