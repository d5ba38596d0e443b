#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "palimpsest/v1/inference.grpc.pb.h"
#include "services/inference/server/generations.h"
#include "services/inference/server/serving.h"
#include "services/inference/server/telemetry.h"
#include "services/inference/server/weights_follower.h"

namespace palimpsest::inference {

// InferenceService over an Engine. Generate and StepSession are written by callbacks, so that
// thousands of streams need no threads; the other calls are short, or bounded in number, and run on
// gRPC's threads. Sessions stand in session_calls.cc.
class InferenceServer final
    : public v1::InferenceService::WithCallbackMethod_Generate<
          v1::InferenceService::WithCallbackMethod_StepSession<v1::InferenceService::Service>> {
 public:
  using ApplyWeights = std::function<absl::StatusOr<UpdateResult>(
      const Announcement& announcement, WeightsMode mode, absl::Time deadline)>;
  struct Options {
    v1::ServerInfo info;
    int max_scores = 1;    // Score calls at once
    int reader_queue = 1;  // streamed messages that a slow reader may be behind
    absl::Duration remember = absl::Minutes(10);
    int64_t remember_bytes = 128 << 20;
    ApplyWeights apply_weights;
    std::function<void()> drained;  // Drain was served: the daemon ends
  };
  // `serving`, `telemetry` and `clock` outlive it; the gRPC server that it is registered at ends
  // first, and no sample runs in the engine when it goes.
  InferenceServer(Options options, Serving& serving, Telemetry& telemetry, Clock& clock);

  int running_generations() const { return generations_.running(); }

  // Generate for a caller of this process: what a client of the call would be sent comes to
  // `reader`. What is refused is told by the status or by its End.
  absl::Status Listen(const v1::GenerateRequest& request, absl::Time deadline,
                      const std::shared_ptr<GenerationReader>& reader);

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;

  grpc::Status GetServerInfo(grpc::ServerContext*,
                             const v1::InferenceServiceGetServerInfoRequest* request,
                             v1::InferenceServiceGetServerInfoResponse* response) override;
  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;

  grpc::Status Pause(grpc::ServerContext*, const v1::InferenceServicePauseRequest*,
                     v1::InferenceServicePauseResponse* response) override;
  grpc::Status Resume(grpc::ServerContext*, const v1::InferenceServiceResumeRequest*,
                      v1::InferenceServiceResumeResponse*) override;
  grpc::Status Drain(grpc::ServerContext*, const v1::InferenceServiceDrainRequest* request,
                     v1::InferenceServiceDrainResponse* response) override;
  grpc::Status AbortAll(grpc::ServerContext*, const v1::AbortAllRequest* request,
                        v1::AbortAllResponse* response) override;
  grpc::Status UpdateWeights(grpc::ServerContext* context, const v1::UpdateWeightsRequest* request,
                             v1::UpdateWeightsResponse* response) override;

  // Sessions. UNIMPLEMENTED, naming the call, where the engine has none.
  grpc::Status CreateSession(grpc::ServerContext*, const v1::CreateSessionRequest*,
                             v1::CreateSessionResponse*) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* StepSession(
      grpc::CallbackServerContext* context, const v1::StepSessionRequest* request) override;
  grpc::Status CompactSession(grpc::ServerContext* context, const v1::CompactSessionRequest*,
                              v1::CompactSessionResponse*) override;
  grpc::Status ForkSession(grpc::ServerContext*, const v1::ForkSessionRequest*,
                           v1::ForkSessionResponse*) override;
  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest*,
                            v1::ListSessionsResponse*) override;
  grpc::Status DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest*,
                             v1::DeleteSessionResponse*) override;

 private:
  // Checks a request against the engine that would serve it.
  using Parse = std::function<absl::StatusOr<GenerationRequest>(const Engine& engine)>;

  // Parses and submits what was joined newly; then it is accepted or refused.
  void Begin(const std::shared_ptr<Generation>& generation, const Parse& parse);
  absl::Status ListenTo(const absl::StatusOr<Generations::Joined>& joined, const Parse& parse,
                        const std::shared_ptr<GenerationReader>& reader);
  absl::StatusOr<ScoreResult> ScoreNow(const v1::ScoreRequest& request);

  const Options options_;
  Serving& serving_;
  Telemetry& telemetry_;
  std::atomic<int> scores_{0};
  std::atomic<int> ended_ok_{0}, ended_otherwise_{0};  // samples
  Generations generations_;                            // last: its thread and hooks use the above
};

}  // namespace palimpsest::inference
