// palimpsest-trainer: makes or resumes the model of a run, publishes it, and turns batches into
// steps until it is told to stop.
#include <unistd.h>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/model/huge_pages.h"
#include "common/rpc/address.h"
#include "common/rpc/daemon.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/metrics_server.h"
#include "services/trainer/config.h"
#include "services/trainer/engine/engine.h"
#include "services/trainer/server/ranks.h"
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

// Rank 0: answers until it is told to stop.
absl::Status Serve(const DaemonConfig& config, TrainerEngine& engine, Collective& ranks,
                   StopSignal& stop, Clock& clock) {
  Metrics metrics(kRole, Version(), clock);
  Telemetry telemetry(metrics);
  LeadingTrainer trainer(engine, ranks, [&stop] { stop.Request(); });
  // At step 0 this is version 1; after a rollback, the weights that readers must go back to.
  ASSIGN_OR_RETURN(const PublishedVersion first, trainer.Publish());
  Log(Severity::kInfo, "weights stand in the store",
      {{"version", first.version.value()}, {"step", first.source_step}});
  TrainerServer service({.info = InfoOf(config, clock),
                         .checkpoint_every = config.trainer.checkpoint_every,
                         .max_queued = static_cast<size_t>(config.trainer.max_queued),
                         .keep_source = ranks.size() > 1,
                         .drained = [&stop] { stop.Request(); }},
                        trainer, telemetry, clock);
  ASSIGN_OR_RETURN(const Tls tls, OfStart(Tls::Open(config.tls, Role::kTrainer, clock)));
  ASSIGN_OR_RETURN(const Listening at, ReadListen(kRole, config.trainer.serve, config.tls));
  ASSIGN_OR_RETURN(const auto metrics_server,
                   MetricsServer::Start(
                       at.metrics.host, at.metrics.port, metrics,
                       [&service] { return service.Ready(); }, tls.https()));
  ASSIGN_OR_RETURN(const auto server, RpcServer::Start(at.rpc, {&service}, metrics, clock, tls));
  ASSIGN_OR_RETURN(const Address own,
                   OwnAddress(server->address(), at.metrics.host, metrics_server->port()));
  RETURN_IF_ERROR(WriteAddress(config.run.folder, kRole, 0, own));
  Log(Severity::kInfo, "listening",
      {{"address", server->address()}, {"metrics_port", metrics_server->port()}});

  stop.Wait();
  Log(Severity::kInfo, "draining");
  const absl::Status saved = service.Finish();
  server->Shutdown();
  RETURN_IF_ERROR(RemoveAddress(config.run.folder, kRole, 0, getpid()));
  RETURN_IF_ERROR(trainer.End());
  return saved;
}

absl::Status Run(const DaemonConfig& config, StopSignal& stop) {
  const TrainerSection& section = config.trainer;
  SetLogConfig({.role = kRole, .run = config.run.name});
  Clock& clock = SystemClock();
  std::unique_ptr<Collective> joined;
  if (section.ranks > 1) {
    ASSIGN_OR_RETURN(JoinOptions options, JoinOptionsOf(config));
    options.give_up = [&stop] { return stop.Requested(); };
    ASSIGN_OR_RETURN(joined, Join(options, clock));
    Log(Severity::kInfo, "joined",
        {{"rank", section.rank}, {"ranks", section.ranks}, {"encrypted", config.tls.on()}});
  }
  Collective& ranks = joined ? *joined : Alone();
  const absl::StatusOr<std::unique_ptr<TrainerEngine>> engine =
      OfStart(TrainerEngine::Open(EngineOptionsOf(config), clock, ranks));
  if (!engine.ok()) {
    ranks.Fail(engine.status());  // the others wait for us
    return engine.status();
  }
  // The others stop when rank 0 says so: a signal is for all of them, and what is queued at rank 0
  // still needs them.
  if (section.rank > 0) return Follow(**engine, ranks);
  return Serve(config, **engine, ranks, stop, clock);
}

}  // namespace
}  // namespace palimpsest::trainer

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::DaemonMain<palimpsest::trainer::DaemonConfig>(
      argc, argv, "palimpsest-trainer", {"inference", "orchestrator", "env", "placement", "router"},
      palimpsest::trainer::Run);
}
