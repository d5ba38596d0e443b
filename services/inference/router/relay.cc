#include "services/inference/router/relay.h"

#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"

namespace palimpsest::inference {

// One call to one replica. The hold keeps it until a read has failed: so it never ends while the
// message that it has read is being written.
class Relay::Attempt final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Attempt(std::shared_ptr<Relay> relay, ReplicaPtr replica)
      : relay_(std::move(relay)), replica_(std::move(replica)) {}

  void Go() {
    PassOn(relay_->context_, relay_->longest_, context_);
    relay_->errand_.start(*replica_->stub, &context_, this);
    AddHold();
    StartRead(&update_);
    StartCall();
  }
  void ReadOn() { StartRead(&update_); }
  void Cancel() { context_.TryCancel(); }
  // The replica said in its stream that it cannot go on: that is how this attempt ends.
  void Leave(const grpc::Status& why) {
    left_ = why;
    context_.TryCancel();
    ReadOn();
  }
  bool left() const { return left_.has_value(); }
  const v1::GenerateResponse& update() const { return update_; }
  const std::string& replica() const { return replica_->name; }

  void OnReadDone(bool ok) override {
    if (ok) {
      relay_->Hear(*this);
    } else {
      RemoveHold();
    }
  }
  void OnDone(const grpc::Status& status) override {
    relay_->Ended(replica_, left_.value_or(status));
    delete this;
  }

 private:
  const std::shared_ptr<Relay> relay_;
  const ReplicaPtr replica_;
  grpc::ClientContext context_;
  v1::GenerateResponse update_;
  std::optional<grpc::Status> left_;
};

namespace {

class Refusal final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  explicit Refusal(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* Relay::Refuse(const grpc::Status& status) {
  return new Refusal(status);
}

Relay* Relay::Start(Errand errand, const grpc::CallbackServerContext& context, Fleet& fleet,
                    RouterTelemetry& telemetry, absl::Duration longest) {
  const std::shared_ptr<Relay> relay(
      new Relay(std::move(errand), context, fleet, telemetry, longest));
  const absl::MutexLock lock(&relay->mu_);
  relay->self_ = relay;
  relay->Ask();
  return relay.get();
}

void Relay::Ask() {
  ReplicaPtr replica;
  if (errand_.home == nullptr) {
    replica = fleet_.Next(errand_.wish, errand_.id, asked_);
  } else if (asked_.empty()) {
    replica = errand_.home;
  }
  if (replica == nullptr) {
    return Conclude(said_.empty() ? ToGrpc(fleet_.WhyNone()) : VerdictOf(said_));
  }
  if (!asked_.empty()) telemetry_.Repeated();
  asked_.push_back(replica->name);
  asked_after_ = since_arrival_.Seconds();
  attempt_ = new Attempt(shared_from_this(), std::move(replica));  // deletes itself
  attempt_->Go();
}

void Relay::Hear(Attempt& attempt) {
  const absl::MutexLock lock(&mu_);
  const v1::GenerateResponse& update = attempt.update();
  if (attempt.left() || (update.has_accepted() && accepted_)) return attempt.ReadOn();
  if (!streamed_ && SaysLoss(attempt)) {
    return attempt.Leave({grpc::StatusCode::UNAVAILABLE, update.error().message()});
  }
  if (update.has_accepted()) {
    accepted_ = true;
  } else {
    if (!std::exchange(streamed_, true)) telemetry_.Added(asked_after_);
    if (update.has_finished()) ended_.insert(update.finished().sample());
    if (update.has_error()) ended_.insert(update.error().sample());
  }
  StartWrite(&update);
}

// A failure that another replica may not have. What was cancelled may have been ended by an
// operator, unless that replica is known to drain.
bool Relay::SaysLoss(const Attempt& attempt) const {
  if (!attempt.update().has_error()) return false;
  const v1::GenerationError& error = attempt.update().error();
  if (error.code() != grpc::StatusCode::CANCELLED) return error.retryable();
  const auto known = fleet_.Find(attempt.replica());
  return !cancelled_ && known.has_value() && known->standing == Standing::kAway;
}

void Relay::OnWriteDone(bool ok) {
  const absl::MutexLock lock(&mu_);
  if (attempt_ == nullptr) {
    last_words_.pop_front();
    return Speak();
  }
  if (!ok) attempt_->Cancel();  // the caller is gone
  attempt_->ReadOn();
}

void Relay::OnCancel() {
  const absl::MutexLock lock(&mu_);
  cancelled_ = true;
  if (attempt_ != nullptr) attempt_->Cancel();
}

void Relay::Ended(const ReplicaPtr& replica, const grpc::Status& said) {
  const absl::MutexLock lock(&mu_);
  attempt_ = nullptr;
  if (errand_.home == nullptr) fleet_.Ended(replica, errand_.wish.samples);
  grpc::Status status = said;
  if (status.ok() && std::ssize(ended_) < errand_.count) {
    status = {grpc::StatusCode::UNAVAILABLE, "the stream ended before its samples"};
  }
  const bool lost = IsLoss(status, cancelled_);
  AskOutcome outcome = OutcomeOf(status, cancelled_);
  if (lost && streamed_) outcome = AskOutcome::kLost;
  telemetry_.Asked(replica->name, outcome);
  if (lost) fleet_.Doubt(replica);
  if (cancelled_) {
    return Finish(
        {grpc::StatusCode::CANCELLED, "cancelled by the caller, or its deadline is over"});
  }
  if (lost && !errand_.about.empty()) status = About(errand_.about, status);
  if (!streamed_ && (lost || IsFull(status))) {
    said_.push_back({replica->name, status});
    return Ask();
  }
  Conclude(status);
}

// After `accepted` a loss is told as the ends of samples, not as a status; so is a refusal by
// another replica than the one that has accepted.
void Relay::Conclude(const grpc::Status& status) {
  const bool told_by_samples =
      IsLoss(status, false) || (!status.ok() && !streamed_ && asked_.size() > 1);
  if (accepted_ && told_by_samples) return FailOpenSamples(status);
  Finish(status);
}

void Relay::FailOpenSamples(const grpc::Status& status) {
  for (int32_t sample = errand_.first; sample - errand_.first < errand_.count; ++sample) {
    if (ended_.contains(sample)) continue;
    v1::GenerationError& error = *last_words_.emplace_back().mutable_error();
    error.set_sample(sample);
    error.set_code(status.error_code());
    error.set_message(absl::StrFormat("%s: %s", asked_.back(), status.error_message()));
    error.set_retryable(true);
    error.set_outcome(v1::OUTCOME_INFRA_FAILED);
  }
  Speak();
}

void Relay::Speak() {
  if (last_words_.empty()) return Finish(grpc::Status::OK);
  StartWrite(&last_words_.front());
}

void Relay::OnDone() {
  std::shared_ptr<Relay> self;
  const absl::MutexLock lock(&mu_);
  self = std::move(self_);
}

}  // namespace palimpsest::inference
