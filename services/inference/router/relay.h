#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/stopwatch.h"
#include "services/inference/router/asking.h"
#include "services/inference/router/fleet.h"

namespace palimpsest::inference {

// A stream that is to be relayed.
struct Errand {
  using Reactor = grpc::ClientReadReactor<v1::GenerateResponse>;
  Wish wish;
  std::string id;                // of the request; see Fleet::Next
  ReplicaPtr home;               // the only replica that can do it (a session's); null: any
  std::string about;             // goes before what `home` says when it is lost
  int32_t first = 0, count = 1;  // its samples
  std::function<void(v1::InferenceService::Stub& stub, grpc::ClientContext* context,
                     Reactor* reactor)>
      start;
};

// One caller's stream, relayed from a replica message by message: the next one is read when the
// last one has gone out, so a slow caller holds its replica and not this process. When the replica
// is lost or full before anything but `accepted` was sent on, the errand is begun again at the next
// one; afterwards each open sample ends with a retryable error. Has no thread; deletes itself.
class Relay final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                    public std::enable_shared_from_this<Relay> {
 public:
  // `fleet` and `telemetry` outlive the call. `longest`: of a call that has no deadline.
  static Relay* Start(Errand errand, const grpc::CallbackServerContext& context, Fleet& fleet,
                      RouterTelemetry& telemetry, absl::Duration longest);

  // A stream that ends at once.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Refuse(const grpc::Status& status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Attempt;

  Relay(Errand errand, const grpc::CallbackServerContext& context, Fleet& fleet,
        RouterTelemetry& telemetry, absl::Duration longest)
      : errand_(std::move(errand)),
        context_(context),
        fleet_(fleet),
        telemetry_(telemetry),
        longest_(longest),
        since_arrival_(telemetry.Arrived()) {}

  // Called by the attempt: a message has come; it is over.
  void Hear(Attempt& attempt);
  void Ended(const ReplicaPtr& replica, const grpc::Status& status);

  bool SaysLoss(const Attempt& attempt) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Ask() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);  // the next replica; the end when none is left
  void Conclude(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailOpenSamples(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Speak() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);  // the next of last_words_, then the end

  const Errand errand_;
  const grpc::CallbackServerContext& context_;  // until OnDone
  Fleet& fleet_;
  RouterTelemetry& telemetry_;
  const absl::Duration longest_;
  const Stopwatch since_arrival_;

  absl::Mutex mu_;
  std::shared_ptr<Relay> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
  // The call that goes on. While there is one, either it reads or we write what it has read.
  Attempt* attempt_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::vector<std::string> asked_ ABSL_GUARDED_BY(mu_);  // names
  std::vector<Said> said_ ABSL_GUARDED_BY(mu_);          // by those that were lost or full
  std::set<int32_t> ended_ ABSL_GUARDED_BY(mu_);         // samples
  std::deque<v1::GenerateResponse> last_words_ ABSL_GUARDED_BY(mu_);
  double asked_after_ ABSL_GUARDED_BY(mu_) = 0;  // seconds: the latest
  bool accepted_ ABSL_GUARDED_BY(mu_) = false;   // was sent on
  bool streamed_ ABSL_GUARDED_BY(mu_) = false;   // so was something else: no other replica now
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace palimpsest::inference
