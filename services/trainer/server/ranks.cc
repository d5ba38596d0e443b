#include "services/trainer/server/ranks.h"

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/trainer/server/messages.h"

namespace palimpsest::trainer {
namespace {

// A command is one of these, then its argument.
constexpr char kTrain = 'T';  // a serialized TrainBatchRequest
constexpr char kBeginSave = 'B';
constexpr char kSave = 'S';
constexpr char kPublish = 'P';
constexpr char kEnd = 'E';

absl::StatusOr<Batch> BatchOf(const std::string& source) {
  v1::TrainBatchRequest request;
  if (!request.ParseFromString(source)) {
    return absl::DataLossError("rank 0 told a batch that is none");
  }
  return FromProto(request);
}

// Of one command; an error that does not part the ranks is rank 0's to tell.
absl::Status Obey(const std::string& command, Trainer& trainer) {
  if (command.front() == kBeginSave) {
    trainer.BeginSave().IgnoreError();
    return absl::OkStatus();
  }
  if (command.front() == kSave) {
    trainer.Save().IgnoreError();
    return absl::OkStatus();
  }
  if (command.front() == kPublish) {
    trainer.Publish().status().IgnoreError();
    return absl::OkStatus();
  }
  if (command.front() != kTrain) {
    return absl::InternalError(absl::StrFormat("rank 0 tells to do '%c'", command.front()));
  }
  ASSIGN_OR_RETURN(const Batch batch, BatchOf(command.substr(1)));
  trainer.Train(batch).status().IgnoreError();
  return absl::OkStatus();
}

}  // namespace

absl::Status LeadingTrainer::Tell(char command, const std::string& argument) {
  if (ranks_.size() == 1) return absl::OkStatus();
  std::string bytes = command + argument;
  return ranks_.Broadcast(0, bytes, absl::InfiniteDuration());
}

absl::Status LeadingTrainer::Judged(const absl::Status& status) {
  const absl::Status health = ranks_.health();
  if (health.ok()) return status;
  broken_();
  return absl::UnavailableError(
      absl::StrFormat("the ranks have parted: %s", std::string(health.message())));
}

absl::StatusOr<TrainOutcome> LeadingTrainer::Train(const Batch& batch) {
  RETURN_IF_ERROR(Judged(Tell(kTrain, batch.source)));
  absl::StatusOr<TrainOutcome> outcome = trainer_.Train(batch);
  RETURN_IF_ERROR(Judged(absl::OkStatus()));
  return outcome;
}

absl::StatusOr<PublishedVersion> LeadingTrainer::Publish() {
  RETURN_IF_ERROR(Judged(Tell(kPublish, "")));
  absl::StatusOr<PublishedVersion> published = trainer_.Publish();
  RETURN_IF_ERROR(Judged(absl::OkStatus()));
  return published;
}

absl::Status LeadingTrainer::BeginSave() {
  RETURN_IF_ERROR(Judged(Tell(kBeginSave, "")));
  return Judged(trainer_.BeginSave());
}

absl::Status LeadingTrainer::Save() {
  RETURN_IF_ERROR(Judged(Tell(kSave, "")));
  return Judged(trainer_.Save());
}

absl::Status LeadingTrainer::End() { return Tell(kEnd, ""); }

absl::Status Follow(Trainer& trainer, Collective& ranks) {
  for (;;) {
    std::string command;
    RETURN_IF_ERROR(ranks.Broadcast(0, command, absl::InfiniteDuration()));
    if (command.starts_with(kEnd)) return absl::OkStatus();
    if (const absl::Status obeyed = Obey(command, trainer); !obeyed.ok()) ranks.Fail(obeyed);
    RETURN_IF_ERROR(ranks.health());
    Log(Severity::kInfo, "followed", {{"rank", ranks.rank()}, {"step", trainer.step()}});
  }
}

}  // namespace palimpsest::trainer
