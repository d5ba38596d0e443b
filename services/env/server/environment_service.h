#pragma once

#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/telemetry/metrics.h"
#include "palimpsest/v1/environment.grpc.pb.h"
#include "services/env/core/registry.h"
#include "services/env/server/worker_tasks.h"

namespace palimpsest::env {

// Who answers GetServerInfo.
struct ServerIdentity {
  std::string run;
  int rank = 0;
};

// EnvironmentService over the built-in tasks and those of the workers, routed by name. Keeps
// nothing between calls: any thread, any number of callers. A request that names no task, or a
// broken episode, is a status that names the field; a wrong response is a reward with a reason.
// Neither turns into the other.
class EnvironmentServer final : public v1::EnvironmentService::Service {
 public:
  // `workers` and `metrics` outlive the server. No task of a worker is named as a built-in one.
  EnvironmentServer(EnvironmentMap environments, WorkerTasks& workers,
                    const ServerIdentity& identity, Metrics& metrics, Clock& clock);

  grpc::Status GetServerInfo(grpc::ServerContext* context,
                             const v1::EnvironmentServiceGetServerInfoRequest* request,
                             v1::EnvironmentServiceGetServerInfoResponse* response) override;
  grpc::Status ListTasks(grpc::ServerContext* context, const v1::ListTasksRequest* request,
                         v1::ListTasksResponse* response) override;
  grpc::Status Reset(grpc::ServerContext* context, const v1::ResetRequest* request,
                     v1::ResetResponse* response) override;
  grpc::Status Step(grpc::ServerContext* context, const v1::StepRequest* request,
                    v1::StepResponse* response) override;
  grpc::Status Score(grpc::ServerContext* context,
                     const v1::EnvironmentServiceScoreRequest* request,
                     v1::EnvironmentServiceScoreResponse* response) override;
  grpc::Status Demonstrate(grpc::ServerContext* context, const v1::DemonstrateRequest* request,
                           v1::DemonstrateResponse* response) override;

 private:
  struct Problem {
    const Environment* environment;
    Episode episode;
  };
  absl::StatusOr<Problem> Find(const v1::Episode& proto) const;
  absl::Status DoReset(const v1::ResetRequest& request, absl::Time deadline,
                       v1::ResetResponse& response) const;
  absl::Status DoStep(const v1::StepRequest& request, absl::Time deadline,
                      v1::StepResponse& response) const;
  absl::Status DoScore(const v1::EnvironmentServiceScoreRequest& request, absl::Time deadline,
                       v1::EnvironmentServiceScoreResponse& response);
  absl::Status DoDemonstrate(const v1::DemonstrateRequest& request, absl::Time deadline,
                             v1::DemonstrateResponse& response) const;

  const EnvironmentMap environments_;
  WorkerTasks& workers_;
  v1::ServerInfo info_;
  MetricFamily<Counter> scored_;
};

}  // namespace palimpsest::env
