#include "services/env/server/worker_tasks.h"

#include <google/protobuf/util/json_util.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "services/env/core/environment.h"

namespace palimpsest::env {
namespace {

using google::protobuf::util::JsonStringToMessage;
using google::protobuf::util::MessageToJsonString;

// What one call writes to; shared with the pool, which may be done later than the caller.
using Answer = std::shared_ptr<v1::WorkerReply>;

absl::Status ReadReply(const std::string& json, const v1::WorkerRequest& request,
                       v1::WorkerReply& reply) {
  const auto parsed = JsonStringToMessage(json, &reply);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s in \"%s\"", Quoted(parsed.ToString(), 200), Quoted(json)));
  }
  if (reply.id() != request.id()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("id=%d answers %d", reply.id(), request.id()));
  }
  // Call and answer of the same kind have the same number.
  const bool fits = static_cast<int>(reply.answer_case()) == static_cast<int>(request.call_case());
  if (fits || reply.has_error()) return absl::OkStatus();
  return absl::InvalidArgumentError("it answers another call");
}

absl::StatusOr<WorkerCall> CallOf(const v1::WorkerRequest& request, const Answer& answer) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  WorkerCall call;
  const auto printed = MessageToJsonString(request, &call.request, options);
  if (!printed.ok() || call.request.size() > kMaxFrame) {
    return absl::InvalidArgumentError("the request cannot be written as a frame");
  }
  call.accept = [request, answer](const std::string& json) {
    answer->Clear();
    return ReadReply(json, request, *answer);
  };
  return call;
}

absl::Status StatusOf(const v1::WorkerError& error) {
  switch (error.kind()) {
    case v1::WORKER_ERROR_KIND_NOT_FOUND:
      return absl::NotFoundError(error.message());
    case v1::WORKER_ERROR_KIND_INVALID_ARGUMENT:
      return absl::InvalidArgumentError(error.message());
    case v1::WORKER_ERROR_KIND_UNIMPLEMENTED:
      return absl::UnimplementedError(error.message());
    default:
      return absl::InternalError(error.message());
  }
}

absl::Status CheckState(const v1::Episode& episode) {
  if (episode.state().size() <= kMaxState) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("episode.state has %d bytes, at most %d", episode.state().size(), kMaxState));
}

absl::Status CheckReset(const v1::ResetResponse& response) {
  if (response.text().empty() && response.chat().messages().empty()) {
    return absl::InternalError("the prompt is empty");
  }
  if (response.max_response() < 0) {
    return absl::InternalError(
        absl::StrFormat("max_response=%d is negative", response.max_response()));
  }
  return CheckState(response.episode());
}

absl::Status CheckStep(const v1::StepResponse& response) {
  if (response.done() == !response.messages().empty()) {
    return absl::InternalError(
        absl::StrFormat("done=%d with %d messages", response.done(), response.messages_size()));
  }
  return CheckState(response.episode());
}

absl::Status CheckScore(const v1::EnvironmentServiceScoreResponse& response) {
  if (response.outcome() != v1::OUTCOME_OK || !response.has_reward() ||
      !std::isfinite(response.reward())) {
    return absl::InternalError("the reward is absent or not finite");
  }
  for (const v1::RewardPart& part : response.parts()) {
    if (!std::isfinite(part.value())) {
      return absl::InternalError(absl::StrFormat("parts.%s is not finite", Quoted(part.name())));
    }
  }
  return absl::OkStatus();
}

}  // namespace

WorkerTasks::WorkerTasks(Metrics& metrics)
    : failures_(metrics.AddCounter({"env_task_failures_total",
                                    "Calls that an environment of a worker raised in.",
                                    {"task"}})) {}

absl::StatusOr<std::unique_ptr<WorkerTasks>> WorkerTasks::Start(
    const std::vector<WorkerSection>& sections, const std::set<std::string>& taken,
    const WorkerStarter& start, Metrics& metrics) {
  auto tasks = std::unique_ptr<WorkerTasks>(new WorkerTasks(metrics));
  for (const WorkerSection& section : sections) {
    RETURN_IF_ERROR(tasks->Add(section, taken, start));
  }
  return tasks;
}

absl::Status WorkerTasks::Add(const WorkerSection& section, const std::set<std::string>& taken,
                              const WorkerStarter& start) {
  // The first process says what there is; every other one, now and after a loss, must say the same.
  struct Announced {
    absl::Mutex mu;
    std::string tasks ABSL_GUARDED_BY(mu);
  };
  const auto announced = std::make_shared<Announced>();
  v1::WorkerRequest question;
  question.set_id(++last_id_);
  question.mutable_list_tasks();
  ASSIGN_OR_RETURN(WorkerCall greeting, CallOf(question, std::make_shared<v1::WorkerReply>()));
  greeting.accept = [question, announced](const std::string& json) -> absl::Status {
    v1::WorkerReply reply;
    RETURN_IF_ERROR(ReadReply(json, question, reply));
    if (reply.has_error()) return StatusOf(reply.error());
    absl::MutexLock lock(&announced->mu);
    const std::string tasks = reply.list_tasks().SerializeAsString();
    if (announced->tasks.empty()) announced->tasks = tasks;
    if (announced->tasks == tasks) return absl::OkStatus();
    return absl::InvalidArgumentError("its tasks are others than before");
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker, start(ConfigOf(section), greeting));
  v1::ListTasksResponse list;
  {
    absl::MutexLock lock(&announced->mu);
    list.ParseFromString(announced->tasks);
  }
  for (const v1::Task& task : list.tasks()) {
    if (task.name().empty() || taken.contains(task.name()) || served_.contains(task.name())) {
      return absl::InvalidArgumentError(
          absl::StrFormat("env.workers: the task \"%s\" of %s has a name that is taken",
                          task.name(), section.name));
    }
    served_[task.name()] = {task, worker.get()};
    failures_.Begin({task.name()});
  }
  workers_.push_back(std::move(worker));
  return absl::OkStatus();
}

const v1::Task* WorkerTasks::Find(std::string_view task) const {
  const auto found = served_.find(task);
  return found == served_.end() ? nullptr : &found->second.task;
}

std::vector<v1::Task> WorkerTasks::tasks() const {
  std::vector<v1::Task> tasks;
  for (const auto& [name, served] : served_) tasks.push_back(served.task);
  return tasks;
}

void WorkerTasks::Stop() {
  for (const auto& worker : workers_) worker->Stop();
}

absl::StatusOr<v1::WorkerReply> WorkerTasks::Ask(std::string_view task, v1::WorkerRequest request,
                                                 absl::Time deadline) {
  const auto found = served_.find(task);
  if (found == served_.end()) {
    return absl::NotFoundError(absl::StrFormat("task=\"%s\" is of no worker", Quoted(task)));
  }
  request.set_id(++last_id_);
  const auto answer = std::make_shared<v1::WorkerReply>();
  ASSIGN_OR_RETURN(WorkerCall call, CallOf(request, answer));
  RETURN_IF_ERROR(found->second.worker->Call(std::move(call), deadline));
  if (!answer->has_error()) return std::move(*answer);
  const absl::Status raised = StatusOf(answer->error());
  if (absl::IsInternal(raised)) failures_.With({found->first}).Add();
  return raised;
}

absl::Status WorkerTasks::Reset(const v1::ResetRequest& request, absl::Time deadline,
                                v1::ResetResponse& response) {
  v1::WorkerRequest question;
  *question.mutable_reset() = request;
  ASSIGN_OR_RETURN(v1::WorkerReply reply, Ask(request.task(), std::move(question), deadline));
  RETURN_IF_ERROR(CheckReset(reply.reset()));
  response = std::move(*reply.mutable_reset());
  v1::Episode& episode = *response.mutable_episode();
  episode.set_task(request.task());
  episode.set_split(request.split());
  episode.set_seed(request.seed());
  episode.set_index(request.index());
  return absl::OkStatus();
}

absl::Status WorkerTasks::Step(const v1::StepRequest& request, absl::Time deadline,
                               v1::StepResponse& response) {
  v1::WorkerRequest question;
  *question.mutable_step() = request;
  ASSIGN_OR_RETURN(v1::WorkerReply reply,
                   Ask(request.episode().task(), std::move(question), deadline));
  RETURN_IF_ERROR(CheckStep(reply.step()));
  response = std::move(*reply.mutable_step());
  v1::Episode episode = request.episode();
  episode.set_state(response.episode().state());
  *response.mutable_episode() = std::move(episode);
  return absl::OkStatus();
}

absl::Status WorkerTasks::Score(const v1::EnvironmentServiceScoreRequest& request,
                                absl::Time deadline,
                                v1::EnvironmentServiceScoreResponse& response) {
  v1::WorkerRequest question;
  *question.mutable_score() = request;
  absl::StatusOr<v1::WorkerReply> reply =
      Ask(request.episode().task(), std::move(question), deadline);
  absl::Status status = reply.status();
  if (status.ok()) status = CheckScore(reply->score());
  if (status.ok()) {
    response = std::move(*reply->mutable_score());
    return status;
  }
  if (!absl::IsInternal(status) && !absl::IsAborted(status)) return status;
  response.set_outcome(absl::IsInternal(status) ? v1::OUTCOME_TASK_FAILED
                                                : v1::OUTCOME_INFRA_FAILED);
  response.set_reason(std::string(status.message()));
  return absl::OkStatus();
}

absl::Status WorkerTasks::Demonstrate(const v1::DemonstrateRequest& request, absl::Time deadline,
                                      v1::DemonstrateResponse& response) {
  v1::WorkerRequest question;
  *question.mutable_demonstrate() = request;
  ASSIGN_OR_RETURN(v1::WorkerReply reply,
                   Ask(request.episode().task(), std::move(question), deadline));
  response = std::move(*reply.mutable_demonstrate());
  return absl::OkStatus();
}

}  // namespace palimpsest::env
