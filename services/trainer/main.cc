// palimpsest-trainer: makes or resumes the model of a run, publishes it, and turns batches into
// steps until it is told to stop.
#include <unistd.h>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/rpc/address.h"
#include "common/rpc/daemon.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/metrics_server.h"
#include "services/trainer/config.h"
#include "services/trainer/engine/engine.h"
#include "services/trainer/server/service.h"

namespace palimpsest::trainer {
namespace {

constexpr char kRole[] = "trainer";

v1::ServerInfo InfoOf(const DaemonConfig& config, Clock& clock) {
  const absl::Time now = clock.Now();
  v1::ServerInfo info;
  info.set_revision(v1::CONTRACT_REVISION_CURRENT);
  info.set_version(std::string(Version()));
  info.set_role(kRole);
  info.set_run(config.run.name);
  info.set_started_unix_ms(absl::ToUnixMillis(now));
  info.set_instance(absl::StrFormat("%016x", MixSeed({static_cast<uint64_t>(absl::ToUnixNanos(now)),
                                                      static_cast<uint64_t>(getpid())})));
  return info;
}

absl::Status Run(const DaemonConfig& config, StopSignal& stop) {
  SetLogConfig({.role = kRole, .run = config.run.name});
  Clock& clock = SystemClock();
  Metrics metrics(kRole, Version(), clock);
  Telemetry telemetry(metrics);
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainerEngine> engine,
                   OfStart(TrainerEngine::Open(EngineOptionsOf(config), clock)));
  // At step 0 this is version 1; after a rollback, the weights that readers must go back to.
  ASSIGN_OR_RETURN(const PublishedVersion first, engine->Publish());
  Log(Severity::kInfo, "weights stand in the store",
      {{"version", first.version.value()}, {"step", first.source_step}});

  TrainerServer service({.info = InfoOf(config, clock),
                         .checkpoint_every = config.trainer.checkpoint_every,
                         .max_queued = static_cast<size_t>(config.trainer.max_queued),
                         .drained = [&stop] { stop.Request(); }},
                        *engine, telemetry, clock);
  ASSIGN_OR_RETURN(const Tls tls, OfStart(Tls::Open(config.tls, Role::kTrainer, clock)));
  ASSIGN_OR_RETURN(const Listening at, ReadListen(kRole, config.trainer.serve, config.tls));
  ASSIGN_OR_RETURN(const auto metrics_server,
                   MetricsServer::Start(
                       at.metrics.host, at.metrics.port, metrics,
                       [&service] { return service.Ready(); }, tls.https()));
  ASSIGN_OR_RETURN(const auto server, RpcServer::Start(at.rpc, {&service}, metrics, clock, tls));
  RETURN_IF_ERROR(WriteAddress(config.run.folder, kRole, 0, {server->address(), getpid()}));
  Log(Severity::kInfo, "listening",
      {{"address", server->address()}, {"metrics_port", metrics_server->port()}});

  stop.Wait();
  Log(Severity::kInfo, "draining");
  const absl::Status saved = service.Finish();
  server->Shutdown();
  RETURN_IF_ERROR(RemoveAddress(config.run.folder, kRole, 0, getpid()));
  return saved;
}

}  // namespace
}  // namespace palimpsest::trainer

int main(int argc, char** argv) {
  return palimpsest::DaemonMain<palimpsest::trainer::DaemonConfig>(
      argc, argv, "palimpsest-trainer", {"inference", "orchestrator", "env", "placement", "router"},
      palimpsest::trainer::Run);
}
