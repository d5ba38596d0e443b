#include "services/env/server/environment_service.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/rpc/daemon.h"
#include "common/rpc/status.h"

namespace palimpsest::env {
namespace {

constexpr int kMaxResponseBytes = 1 << 20;  // longer ones are refused, not judged

absl::StatusOr<Split> SplitFromProto(v1::Split split, std::string_view field) {
  switch (split) {
    case v1::SPLIT_TRAIN:
      return Split::kTrain;
    case v1::SPLIT_SFT:
      return Split::kSft;
    case v1::SPLIT_HELDOUT:
      return Split::kHeldout;
    default:
      return absl::InvalidArgumentError(
          absl::StrFormat("%s=%d is none of TRAIN, SFT, HELDOUT", field, static_cast<int>(split)));
  }
}

absl::Status CheckResponseText(const std::string& text) {
  if (text.size() <= kMaxResponseBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("response_text has %d bytes, at most %d", text.size(), kMaxResponseBytes));
}

bool Demonstrates(const Environment& environment) {
  const absl::StatusOr<Episode> episode = environment.Make(Split::kSft, 0, 0);
  return episode.ok() && environment.Demonstrate(*episode, Noise{}).ok();
}

// As the contract counts: 0 is single-turn.
int32_t TurnsOf(const Environment& environment) {
  return environment.max_turns() > 1 ? environment.max_turns() : 0;
}

// What every worker may rely on; `task` is theirs.
absl::Status CheckEpisode(const v1::Task& task, const v1::Episode& episode) {
  RETURN_IF_ERROR(SplitFromProto(episode.split(), "episode.split").status());
  RETURN_IF_ERROR(CheckDraw(task.name(), Split::kTrain, episode.index()));
  const size_t most = task.multi_turn() ? kMaxState : 0;
  if (episode.state().size() <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("episode.state has %d bytes; the task \"%s\" keeps at most %d",
                      episode.state().size(), task.name(), most));
}

absl::Status SingleTurn(const std::string& task) {
  return absl::FailedPreconditionError(
      absl::StrFormat("episode.task=\"%s\" is single-turn: it is scored, not stepped", task));
}

v1::Episode NamedBy(const v1::ResetRequest& request) {
  v1::Episode episode;
  episode.set_task(request.task());
  episode.set_split(request.split());
  episode.set_seed(request.seed());
  episode.set_index(request.index());
  return episode;
}

absl::Time DeadlineOf(const grpc::ServerContext& context) {
  return absl::FromChrono(context.deadline());
}

}  // namespace

EnvironmentServer::EnvironmentServer(EnvironmentMap environments, WorkerTasks& workers,
                                     const ServerIdentity& identity, Metrics& metrics, Clock& clock)
    : environments_(std::move(environments)),
      workers_(workers),
      scored_(metrics.AddCounter({"env_scores_total", "Responses that were judged.", {"task"}})) {
  for (const auto& [name, environment] : environments_) scored_.Begin({name});
  for (const v1::Task& task : workers_.tasks()) scored_.Begin({task.name()});
  const int64_t started = absl::ToUnixMillis(clock.Now());
  info_.set_revision(v1::CONTRACT_REVISION_CURRENT);
  info_.set_version(std::string(Version()));
  info_.set_role("env");
  info_.set_rank(identity.rank);
  info_.set_run(identity.run);
  info_.set_started_unix_ms(started);
  info_.set_instance(absl::StrFormat("%d-%d", started, getpid()));
}

grpc::Status EnvironmentServer::GetServerInfo(
    grpc::ServerContext*, const v1::EnvironmentServiceGetServerInfoRequest* request,
    v1::EnvironmentServiceGetServerInfoResponse* response) {
  if (request->revision() != v1::CONTRACT_REVISION_CURRENT) {
    return ToGrpc(absl::FailedPreconditionError(
        absl::StrFormat("revision=%d, this server speaks %d", request->revision(),
                        static_cast<int>(v1::CONTRACT_REVISION_CURRENT))));
  }
  *response->mutable_server() = info_;
  response->set_state(v1::SERVING_STATE_SERVING);
  return grpc::Status::OK;
}

grpc::Status EnvironmentServer::ListTasks(grpc::ServerContext*, const v1::ListTasksRequest*,
                                          v1::ListTasksResponse* response) {
  for (const auto& [name, environment] : environments_) {
    v1::Task& task = *response->add_tasks();
    task.set_name(name);
    task.set_description(std::string(environment->description()));
    task.set_demonstrates(Demonstrates(*environment));
    task.set_multi_turn(environment->max_turns() > 1);
    task.set_max_turns(TurnsOf(*environment));
    const absl::StatusOr<Episode> sample = environment->Make(Split::kTrain, 0, 0);
    if (sample.ok()) task.set_max_response(sample->max_response_bytes);
  }
  for (const v1::Task& task : workers_.tasks()) *response->add_tasks() = task;
  return grpc::Status::OK;
}

grpc::Status EnvironmentServer::Reset(grpc::ServerContext* context, const v1::ResetRequest* request,
                                      v1::ResetResponse* response) {
  return ToGrpc(DoReset(*request, DeadlineOf(*context), *response));
}

absl::Status EnvironmentServer::DoReset(const v1::ResetRequest& request, absl::Time deadline,
                                        v1::ResetResponse& response) const {
  const v1::Episode named = NamedBy(request);
  if (const v1::Task* task = workers_.Find(request.task())) {
    RETURN_IF_ERROR(CheckEpisode(*task, named));
    RETURN_IF_ERROR(workers_.Reset(request, deadline, response));
    response.set_max_turns(task->multi_turn() ? task->max_turns() : 0);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Problem problem, Find(named));
  *response.mutable_episode() = named;
  response.set_text(problem.episode.prompt);
  response.set_max_response(problem.episode.max_response_bytes);
  response.set_max_turns(TurnsOf(*problem.environment));
  for (const std::string& stop : problem.episode.stops) response.add_stops(stop);
  if (problem.episode.needs_memory) response.add_tags("needs_memory");
  return absl::OkStatus();
}

grpc::Status EnvironmentServer::Step(grpc::ServerContext* context, const v1::StepRequest* request,
                                     v1::StepResponse* response) {
  return ToGrpc(DoStep(*request, DeadlineOf(*context), *response));
}

absl::Status EnvironmentServer::DoStep(const v1::StepRequest& request, absl::Time deadline,
                                       v1::StepResponse& response) const {
  const v1::Episode& episode = request.episode();
  RETURN_IF_ERROR(CheckResponseText(request.response_text()));
  if (const v1::Task* task = workers_.Find(episode.task())) {
    RETURN_IF_ERROR(CheckEpisode(*task, episode));
    if (!task->multi_turn()) return SingleTurn(episode.task());
    return workers_.Step(request, deadline, response);
  }
  ASSIGN_OR_RETURN(const Problem problem, Find(episode));
  if (problem.environment->max_turns() == 1) return SingleTurn(episode.task());
  ASSIGN_OR_RETURN(Turn turn, problem.environment->Step(problem.episode, request.response_text()));
  *response.mutable_episode() = episode;
  response.mutable_episode()->set_state(std::move(turn.state));
  response.set_done(turn.done);
  if (turn.done) return absl::OkStatus();
  v1::ChatMessage& message = *response.add_messages();
  message.set_role("user");
  message.set_content(std::move(turn.observation));
  return absl::OkStatus();
}

grpc::Status EnvironmentServer::Score(grpc::ServerContext* context,
                                      const v1::EnvironmentServiceScoreRequest* request,
                                      v1::EnvironmentServiceScoreResponse* response) {
  return ToGrpc(DoScore(*request, DeadlineOf(*context), *response));
}

absl::Status EnvironmentServer::DoScore(const v1::EnvironmentServiceScoreRequest& request,
                                        absl::Time deadline,
                                        v1::EnvironmentServiceScoreResponse& response) {
  if (request.outcome() != v1::OUTCOME_OK && request.outcome() != v1::OUTCOME_TRUNCATED) {
    return absl::InvalidArgumentError(
        absl::StrFormat("outcome=%d is neither OK nor TRUNCATED: such a rollout is never scored",
                        static_cast<int>(request.outcome())));
  }
  RETURN_IF_ERROR(CheckResponseText(request.response_text()));
  if (const v1::Task* task = workers_.Find(request.episode().task())) {
    RETURN_IF_ERROR(CheckEpisode(*task, request.episode()));
    if (task->multi_turn() && !request.response_text().empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("response_text has %d bytes; the turns of \"%s\" are stepped",
                          request.response_text().size(), task->name()));
    }
    RETURN_IF_ERROR(workers_.Score(request, deadline, response));
    if (response.has_reward()) scored_.With({task->name()}).Add();
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Problem problem, Find(request.episode()));
  ASSIGN_OR_RETURN(const env::Score score,
                   problem.environment->Grade(problem.episode, request.response_text()));
  response.set_reward(score.reward);
  response.set_reason(score.reason);
  response.set_outcome(v1::OUTCOME_OK);
  for (const auto& [name, value] : score.parts) {
    v1::RewardPart& part = *response.add_parts();
    part.set_name(name);
    part.set_value(value);
  }
  scored_.With({request.episode().task()}).Add();
  return absl::OkStatus();
}

grpc::Status EnvironmentServer::Demonstrate(grpc::ServerContext* context,
                                            const v1::DemonstrateRequest* request,
                                            v1::DemonstrateResponse* response) {
  return ToGrpc(DoDemonstrate(*request, DeadlineOf(*context), *response));
}

absl::Status EnvironmentServer::DoDemonstrate(const v1::DemonstrateRequest& request,
                                              absl::Time deadline,
                                              v1::DemonstrateResponse& response) const {
  const double noise = request.answer_noise();
  if (!(noise >= 0 && noise <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("answer_noise=%g is outside of [0, 1]", noise));
  }
  if (const v1::Task* task = workers_.Find(request.episode().task())) {
    RETURN_IF_ERROR(CheckEpisode(*task, request.episode()));
    return workers_.Demonstrate(request, deadline, response);
  }
  ASSIGN_OR_RETURN(const Problem problem, Find(request.episode()));
  ASSIGN_OR_RETURN(*response.mutable_response_text(),
                   problem.environment->Demonstrate(problem.episode, Noise{.answer = noise}));
  return absl::OkStatus();
}

absl::StatusOr<EnvironmentServer::Problem> EnvironmentServer::Find(const v1::Episode& proto) const {
  const absl::StatusOr<const Environment*> found = FindEnvironment(environments_, proto.task());
  if (!found.ok()) {
    std::string known(found.status().message());
    for (const v1::Task& task : workers_.tasks()) known += ", " + task.name();
    return absl::NotFoundError(known);
  }
  const Environment* const environment = *found;
  ASSIGN_OR_RETURN(const Split split, SplitFromProto(proto.split(), "episode.split"));
  if (!proto.state().empty() && environment->max_turns() == 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("episode.state has %d bytes; the task \"%s\" keeps no state",
                        proto.state().size(), proto.task()));
  }
  ASSIGN_OR_RETURN(Episode episode, environment->Make(split, proto.seed(), proto.index()));
  episode.state = proto.state();
  return Problem{environment, std::move(episode)};
}

}  // namespace palimpsest::env
