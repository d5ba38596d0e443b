#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "palimpsest/v1/trainer.grpc.pb.h"
#include "services/trainer/core/trainer.h"
#include "services/trainer/server/telemetry.h"
#include "services/trainer/server/worker.h"

namespace palimpsest::trainer {

// TrainerService over one Trainer. Handlers wait for the worker; GetServerInfo, GetStatus, Pause
// and Resume never do. All others than `trainer`'s worker calls: any thread.
class TrainerServer final : public v1::TrainerService::Service {
 public:
  struct Options {
    v1::ServerInfo info;
    int32_t checkpoint_every = 10;  // steps; 0 = only when asked
    size_t max_queued = 16;         // calls that wait for the worker
    bool keep_source = false;       // batches carry their bytes (Batch::source)
    std::function<void()> drained;  // Drain has answered: the daemon may end
  };
  // `trainer`, `telemetry` and `clock` outlive it.
  TrainerServer(Options options, Trainer& trainer, Telemetry& telemetry, Clock& clock);

  // No batch is taken any more; what is queued is done, the steps are saved, the worker ends. Its
  // answer is that of the last save.
  absl::Status Finish();
  // OK; UNAVAILABLE while paused or draining; FAILED_PRECONDITION while the trainer is not sound.
  absl::Status Ready() const;

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::TrainerServiceGetServerInfoRequest*,
                             v1::TrainerServiceGetServerInfoResponse*) override;
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse*) override;
  grpc::Status TrainBatch(grpc::ServerContext*, const v1::TrainBatchRequest*,
                          v1::TrainBatchResponse*) override;
  grpc::Status Publish(grpc::ServerContext*, const v1::PublishRequest*,
                       v1::PublishResponse*) override;
  grpc::Status SaveCheckpoint(grpc::ServerContext*, const v1::SaveCheckpointRequest*,
                              v1::SaveCheckpointResponse*) override;
  grpc::Status Pause(grpc::ServerContext*, const v1::TrainerServicePauseRequest*,
                     v1::TrainerServicePauseResponse*) override;
  grpc::Status Resume(grpc::ServerContext*, const v1::TrainerServiceResumeRequest*,
                      v1::TrainerServiceResumeResponse*) override;
  grpc::Status Drain(grpc::ServerContext*, const v1::TrainerServiceDrainRequest*,
                     v1::TrainerServiceDrainResponse*) override;

 private:
  // What GetStatus tells while the worker is busy.
  struct Snapshot {
    int64_t step = 0;
    std::string last_batch_id;
    std::vector<PublishedVersion> published;
    absl::Status sound;
  };

  // On the worker.
  absl::StatusOr<v1::TrainBatchResponse> TrainNow(const Batch& batch);
  absl::StatusOr<v1::PublishResponse> PublishNow(int64_t step);
  absl::StatusOr<int64_t> SaveNow();  // the durable step
  void SaveBeside();
  void TakeSnapshot();

  Snapshot snapshot() const;
  v1::ServingState state() const;
  void SetState(v1::ServingState state);
  absl::Status Serving() const;  // OK, or UNAVAILABLE with the reason
  void TellReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  Trainer& trainer_;
  Telemetry& telemetry_;
  Clock& clock_;
  int64_t told_failures_ = 0;  // to telemetry, by the worker
  mutable absl::Mutex mu_;
  Snapshot snapshot_ ABSL_GUARDED_BY(mu_);
  v1::ServingState state_ ABSL_GUARDED_BY(mu_) = v1::SERVING_STATE_SERVING;
  Worker worker_;  // last: it uses all others
};

}  // namespace palimpsest::trainer
