#include <unistd.h>

#include <set>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/address.h"
#include "common/rpc/daemon.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "services/env/engine/worker_pool.h"
#include "services/env/server/daemon_config.h"
#include "services/env/server/environment_service.h"
#include "services/env/server/worker_tasks.h"

namespace palimpsest::env {
namespace {

constexpr char kName[] = "palimpsest-env";

absl::Status Run(const EnvDaemonConfig& config, StopSignal& stop) {
  SetLogConfig({.role = "env", .run = config.run.name});
  ASSIGN_OR_RETURN(EnvironmentMap environments, OfStart(BuiltInEnvironments(config.env.tasks)));
  Metrics metrics("env", Version(), SystemClock());
  Gauge ready = metrics.AddGauge({"ready", "1 while calls are answered."}).With({});
  std::set<std::string> built_in;
  for (const auto& [name, unused] : environments) built_in.insert(name);
  const WorkerStarter start = [counters = WorkerMetrics(metrics)](const WorkerConfig& worker,
                                                                  const WorkerCall& greeting) {
    return WorkerPool::Start(worker, greeting, counters, SystemClock());
  };
  ASSIGN_OR_RETURN(const auto workers,
                   OfStart(WorkerTasks::Start(config.env.workers, built_in, start, metrics)));
  EnvironmentServer service(std::move(environments), *workers, {config.run.name, config.env.rank},
                            metrics, SystemClock());
  ASSIGN_OR_RETURN(const Tls tls, OfStart(Tls::Open(config.tls, Role::kEnv, SystemClock())));
  ASSIGN_OR_RETURN(const Listening at, ReadListen("env", config.env.serve, config.tls));
  ASSIGN_OR_RETURN(const auto server,
                   RpcServer::Start(at.rpc, {&service}, metrics, SystemClock(), tls));
  ASSIGN_OR_RETURN(const auto http, MetricsServer::Start(
                                        at.metrics.host, at.metrics.port, metrics,
                                        [&stop] {
                                          return stop.Requested()
                                                     ? absl::UnavailableError("stopping")
                                                     : absl::OkStatus();
                                        },
                                        tls.https()));
  ASSIGN_OR_RETURN(const Address own, OwnAddress(server->address(), at.metrics.host, http->port()));
  RETURN_IF_ERROR(WriteAddress(config.run.folder, "env", config.env.rank, own));
  ready.Set(1);
  Log(Severity::kInfo, "env serves",
      {{"address", server->address()}, {"metrics_port", http->port()}});
  stop.Wait();
  ready.Set(0);
  workers->Stop();  // a call may work for minutes; it is pure, and asked for again
  server->Shutdown();
  Log(Severity::kInfo, "env stopped");
  return RemoveAddress(config.run.folder, "env", config.env.rank, getpid());
}

}  // namespace
}  // namespace palimpsest::env

int main(int argc, char** argv) {
  using namespace palimpsest;
  return DaemonMain<env::EnvDaemonConfig>(
      argc, argv, env::kName,
      {"model", "inference", "trainer", "orchestrator", "placement", "router"}, env::Run);
}
