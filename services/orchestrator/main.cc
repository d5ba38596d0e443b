#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/address.h"
#include "common/rpc/daemon.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/metrics_server.h"
#include "services/orchestrator/daemon_config.h"
#include "services/orchestrator/engine/panel.h"
#include "services/orchestrator/engine/run.h"
#include "services/orchestrator/server/env_client.h"
#include "services/orchestrator/server/inference_client.h"
#include "services/orchestrator/server/messages.h"
#include "services/orchestrator/server/service.h"
#include "services/orchestrator/server/trainer_client.h"

namespace palimpsest::orchestrator {
namespace {

constexpr char kName[] = "palimpsest-orchestrator";
constexpr absl::Duration kRedraw = absl::Seconds(1);
constexpr absl::Duration kLastLook = absl::Seconds(2);  // for those who watch the end

PeerConfig HowToReachPeers(const OrchestratorDaemonConfig& config, const Tls& tls) {
  PeerConfig peers{.run_folder = config.run.folder, .run = config.run.name, .tls = tls};
  peers.train_call = config.orchestrator.plan.peers.train_deadline;
  peers.generate_call = config.orchestrator.plan.peers.generate_deadline;
  return peers;
}

v1::ServerInfo AboutUs(const OrchestratorDaemonConfig& config) {
  v1::ServerInfo info;
  info.set_revision(v1::CONTRACT_REVISION_CURRENT);
  info.set_version(std::string(Version()));
  info.set_role("orchestrator");
  info.set_run(config.run.name);
  info.set_started_unix_ms(absl::ToUnixMillis(SystemClock().Now()));
  info.set_instance(std::to_string(getpid()) + "." + std::to_string(info.started_unix_ms()));
  return info;
}

// Draws the panel and keeps the ledger's clock until the run ends; a stop signal drains it.
void Accompany(orchestrator::Run& run, StopSignal& stop, absl::Duration grace, bool terminal) {
  Panel panel;
  bool told = false;
  while (!run.Ended()) {
    run.Beat();
    if (terminal) panel.Draw(run.Now());
    if (told) {
      SystemClock().SleepFor(kRedraw);
    } else if (stop.WaitFor(kRedraw)) {
      told = true;
      run.Drain(grace);
    }
  }
  if (terminal) panel.Draw(run.Now());
}

// `command` is what was typed to start the run, for the report.
absl::Status RunDaemon(const std::string& command, const OrchestratorDaemonConfig& config,
                       StopSignal& stop) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  SetLogConfig({.role = "orchestrator",
                .run = config.run.name,
                .level = terminal ? Severity::kWarning : Severity::kInfo});
  std::error_code error;
  std::filesystem::create_directories(config.run.folder, error);
  if (error) return absl::InternalError(config.run.folder + ": " + error.message());
  ASSIGN_OR_RETURN(RunPlan plan, OfStart(PlanOf(config.orchestrator)));
  Metrics metrics("orchestrator", Version(), SystemClock());
  ASSIGN_OR_RETURN(const Tls tls,
                   OfStart(Tls::Open(config.tls, Role::kOrchestrator, SystemClock())));
  const PeerConfig peers = HowToReachPeers(config, tls);
  GrpcEnvClient env(plan.peers.env, peers);
  GrpcInferenceClient inference(plan.peers.inference, peers);
  GrpcTrainerClient trainer(peers);
  const WireRolloutCodec codec;
  ASSIGN_OR_RETURN(const auto run,
                   OfStart(orchestrator::Run::Open(
                       plan, {config.run.name, config.run.folder, config.run.seed, command},
                       {env, inference, trainer, codec}, metrics, SystemClock())));
  OrchestratorServer service(
      *run, AboutUs(config),
      [&] {
        std::vector<PeerFacts> facts = inference.Facts();
        for (const PeerFacts& peer : env.Facts()) facts.push_back(peer);
        facts.push_back(trainer.Facts());
        return facts;
      },
      [&stop] { return stop.Requested(); }, codec);
  ASSIGN_OR_RETURN(const Listening at,
                   ReadListen("orchestrator", config.orchestrator.serve, config.tls));
  ASSIGN_OR_RETURN(const auto server,
                   RpcServer::Start(at.rpc, {&service}, metrics, SystemClock(), tls));
  ASSIGN_OR_RETURN(
      const auto http,
      MetricsServer::Start(
          at.metrics.host, at.metrics.port, metrics,
          [&] { return run->Ended() ? absl::UnavailableError("ended") : absl::OkStatus(); },
          tls.https()));
  RETURN_IF_ERROR(
      WriteAddress(config.run.folder, "orchestrator", 0, {server->address(), getpid()}));
  Log(Severity::kInfo, "orchestrator serves",
      {{"address", server->address()}, {"metrics_port", http->port()}});
  absl::Status status;
  std::thread loop([&] { status = run->Execute(); });
  Accompany(*run, stop, config.orchestrator.drain_grace, terminal);
  loop.join();
  if (!stop.Requested()) SystemClock().SleepFor(kLastLook);
  server->Shutdown();
  status.Update(RemoveAddress(config.run.folder, "orchestrator", 0, getpid()));
  return status;
}

}  // namespace
}  // namespace palimpsest::orchestrator

int main(int argc, char** argv) {
  using namespace palimpsest;
  std::string command;
  for (int i = 0; i < argc; ++i) command += (i > 0 ? " " : "") + std::string(argv[i]);
  return DaemonMain<orchestrator::OrchestratorDaemonConfig>(
      argc, argv, orchestrator::kName,
      {"model", "inference", "trainer", "env", "placement", "router"},
      [&](const orchestrator::OrchestratorDaemonConfig& config, StopSignal& stop) {
        const std::string& typed = config.orchestrator.command;
        return orchestrator::RunDaemon(typed.empty() ? command : typed, config, stop);
      });
}
