#include "services/trainer/engine/checkpoint_writer.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/collective/exchange.h"
#include "common/telemetry/log.h"

namespace palimpsest::trainer {

CheckpointWriter::CheckpointWriter(CheckpointFolder folder, int64_t durable, Clock& clock,
                                   Collective& ranks)
    : folder_(std::move(folder)),
      clock_(clock),
      ranks_(ranks),
      durable_step_(durable),
      saving_step_(durable) {}

CheckpointWriter::~CheckpointWriter() { Join().IgnoreError(); }

void CheckpointWriter::Run(std::function<absl::Status()> work) {
  done_ = false;
  thread_ = std::thread([this, work = std::move(work)] {
    result_ = work();
    done_ = true;
  });
}

absl::Status CheckpointWriter::Join() {
  if (thread_.joinable()) thread_.join();
  return result_;
}

absl::Status CheckpointWriter::Timed(const std::function<absl::Status()>& work) {
  const absl::Time start = clock_.Now();
  const absl::Status status = work();
  write_seconds_ += absl::ToDoubleSeconds(clock_.Now() - start);
  return status;
}

// On the thread of rank 0: all parts are there.
absl::Status CheckpointWriter::Finish() {
  const int64_t step = state_.ledger.step();
  const absl::Status written =
      Timed([&] { return folder_.Commit(begun_, std::exchange(state_, {})); });
  if (!written.ok()) return Failed(written);
  durable_step_ = step;
  Log(Severity::kInfo, "checkpoint written",
      {{"step", step}, {"copy_s", copy_seconds_}, {"write_s", write_seconds_}});
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Failed(const absl::Status& why) {
  saving_step_ = durable_step_.load();
  if (ranks_.rank() != 0) return why;
  ++failures_;
  Log(Severity::kError, "checkpoint failed", {{"why", why.ToString()}});
  return why;
}

absl::Status CheckpointWriter::Begin(CheckpointState state,
                                     const std::function<absl::StatusOr<CheckpointPart>()>& copy) {
  Wait().IgnoreError();  // told by the log
  absl::StatusOr<std::string> begun = "";
  if (ranks_.rank() == 0) begun = folder_.Begin();
  begun = OfFirst(ranks_, std::move(begun));
  if (!begun.ok()) return Failed(begun.status());
  begun_ = *std::move(begun);
  const absl::Time start = clock_.Now();
  absl::StatusOr<CheckpointPart> part = copy();
  copy_seconds_ = absl::ToDoubleSeconds(clock_.Now() - start);
  write_seconds_ = 0;
  state_ = std::move(state);
  saving_step_ = state_.ledger.step();
  stage_ = Stage::kParts;
  Run([this, part = std::move(part), folder = begun_, alone = ranks_.size() == 1] {
    const absl::Status written = part.ok() ? Timed([&] { return (*part)(folder); }) : part.status();
    if (!alone) return written;
    if (written.ok()) return Finish();
    folder_.Drop(folder);
    return Failed(written);
  });
  return absl::OkStatus();
}

// What all ranks say of their parts.
absl::Status CheckpointWriter::Met(const absl::Status& parts) {
  if (!parts.ok()) {
    stage_ = Stage::kNone;
    if (ranks_.rank() == 0) folder_.Drop(begun_);
    return ended_ = Failed(parts);
  }
  stage_ = Stage::kState;
  if (ranks_.rank() == 0) Run([this] { return Finish(); });
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Meet() {
  if (ranks_.size() == 1 || stage_ != Stage::kParts) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<char> done, OneOfAll<char>(ranks_, done_ ? 1 : 0));
  if (std::count(done.begin(), done.end(), 1) == std::ssize(done)) {
    Met(Agree(ranks_, Join())).IgnoreError();  // told by the log
  }
  return ranks_.health();
}

absl::Status CheckpointWriter::Wait() {
  if (stage_ == Stage::kParts) {
    const absl::Status part = Join();
    if (ranks_.size() == 1) {
      stage_ = Stage::kNone;
      return ended_ = part;
    }
    RETURN_IF_ERROR(Met(Agree(ranks_, part)));
  }
  if (stage_ == Stage::kState) {
    stage_ = Stage::kNone;
    ended_ = Agree(ranks_, ranks_.rank() == 0 ? Join() : absl::OkStatus());
    if (ended_.ok() && ranks_.rank() != 0) durable_step_ = saving_step_.load();
  }
  return ended_;
}

absl::Status CheckpointWriter::Look() {
  Wait().IgnoreError();  // told by the log
  absl::StatusOr<std::string> text = "";
  if (ranks_.rank() == 0) text = absl::StrFormat("%d", folder_.Durable());
  ASSIGN_OR_RETURN(const std::string told, OfFirst(ranks_, std::move(text)));
  int64_t durable = 0;
  if (!absl::SimpleAtoi(told, &durable)) {
    return absl::InternalError(absl::StrFormat("rank 0 tells the durable step '%s'", told));
  }
  durable_step_ = saving_step_ = durable;
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer
