#include "services/orchestrator/server/trainer_client.h"

#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {

using Stub = v1::TrainerService::Stub;

GrpcTrainerClient::GrpcTrainerClient(const PeerConfig& config)
    : config_(config),
      peer_(
          "trainer", 0, config,
          [](std::shared_ptr<grpc::Channel> channel) {
            return v1::TrainerService::NewStub(std::move(channel));
          },
          [](Stub& stub, grpc::ClientContext& context) {
            return IntroduceTo<v1::TrainerServiceGetServerInfoRequest,
                               v1::TrainerServiceGetServerInfoResponse>(
                stub, context, v1::CONTRACT_REVISION_CURRENT);
          }) {}

absl::StatusOr<TrainerStatus> GrpcTrainerClient::Status() {
  v1::GetStatusResponse response;
  RETURN_IF_ERROR(peer_.Call(config_.call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.GetStatus(&context, v1::GetStatusRequest(), &response);
  }));
  TrainerStatus status;
  status.step = response.step();
  status.durable_step = response.durable_step();
  for (const v1::WeightsAnnouncement& weights : response.published()) {
    status.published.push_back(AnnouncementFromProto(weights));
  }
  status.serving = response.state() == v1::SERVING_STATE_SERVING;
  return status;
}

absl::StatusOr<TrainResult> GrpcTrainerClient::Train(const TrainBatch& batch) {
  const v1::TrainBatchRequest request = BatchToProto(batch);
  v1::TrainBatchResponse response;
  RETURN_IF_ERROR(peer_.Call(config_.train_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.TrainBatch(&context, request, &response);
  }));
  return ResultFromProto(response, batch);
}

absl::StatusOr<Weights> GrpcTrainerClient::Publish(int64_t step) {
  v1::PublishRequest request;
  request.set_step(step);
  v1::PublishResponse response;
  RETURN_IF_ERROR(peer_.Call(config_.switch_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.Publish(&context, request, &response);
  }));
  return AnnouncementFromProto(response.weights());
}

absl::StatusOr<int64_t> GrpcTrainerClient::SaveCheckpoint() {
  v1::SaveCheckpointRequest request;
  request.set_wait(true);
  v1::SaveCheckpointResponse response;
  RETURN_IF_ERROR(peer_.Call(config_.switch_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.SaveCheckpoint(&context, request, &response);
  }));
  return response.durable_step();
}

}  // namespace palimpsest::orchestrator
