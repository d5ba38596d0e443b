#pragma once

#include <functional>
#include <vector>

#include "palimpsest/v1/orchestrator.grpc.pb.h"
#include "services/orchestrator/core/progress.h"

namespace palimpsest::orchestrator {

// OrchestratorService over a run. Handlers only read the run or set a switch.
class OrchestratorServer final : public v1::OrchestratorService::Service {
 public:
  // `run` outlives the server; `peers` and `stopping` are called from any thread. A watch ends when
  // the run has ended or the daemon is stopping.
  OrchestratorServer(RunView& run, v1::ServerInfo info,
                     std::function<std::vector<PeerFacts>()> peers, std::function<bool()> stopping,
                     const RolloutCodec& codec)
      : run_(run),
        info_(std::move(info)),
        peers_(std::move(peers)),
        stopping_(std::move(stopping)),
        codec_(codec) {}

  grpc::Status GetServerInfo(grpc::ServerContext* context,
                             const v1::OrchestratorServiceGetServerInfoRequest* request,
                             v1::OrchestratorServiceGetServerInfoResponse* response) override;
  grpc::Status GetProgress(grpc::ServerContext* context, const v1::GetProgressRequest* request,
                           v1::GetProgressResponse* response) override;
  grpc::Status WatchProgress(grpc::ServerContext* context, const v1::WatchProgressRequest* request,
                             grpc::ServerWriter<v1::WatchProgressResponse>* writer) override;
  grpc::Status ListRollouts(grpc::ServerContext* context, const v1::ListRolloutsRequest* request,
                            v1::ListRolloutsResponse* response) override;
  grpc::Status GetRollout(grpc::ServerContext* context, const v1::GetRolloutRequest* request,
                          v1::GetRolloutResponse* response) override;
  grpc::Status Pause(grpc::ServerContext* context,
                     const v1::OrchestratorServicePauseRequest* request,
                     v1::OrchestratorServicePauseResponse* response) override;
  grpc::Status Resume(grpc::ServerContext* context,
                      const v1::OrchestratorServiceResumeRequest* request,
                      v1::OrchestratorServiceResumeResponse* response) override;
  grpc::Status Drain(grpc::ServerContext* context,
                     const v1::OrchestratorServiceDrainRequest* request,
                     v1::OrchestratorServiceDrainResponse* response) override;

 private:
  RunView& run_;
  v1::ServerInfo info_;
  std::function<std::vector<PeerFacts>()> peers_;
  std::function<bool()> stopping_;
  const RolloutCodec& codec_;
};

}  // namespace palimpsest::orchestrator
