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
#include "services/orchestrator/engine/curve_record.h"
#include "services/orchestrator/engine/panel.h"
#include "services/orchestrator/engine/run.h"
#include "services/orchestrator/engine/step_trace.h"
#include "services/orchestrator/server/env_client.h"
#include "services/orchestrator/server/inference_client.h"
#include "services/orchestrator/server/messages.h"
#include "services/orchestrator/server/service.h"
#include "services/orchestrator/server/trainer_client.h"
#include "services/orchestrator/settings.h"
#include "services/orchestrator/web/run_page.h"

namespace palimpsest::orchestrator {
namespace {

constexpr char kName[] = "palimpsest-orchestrator";
constexpr absl::Duration kRedraw = absl::Seconds(1);
constexpr absl::Duration kLastLook = absl::Seconds(2);  // for those who watch the end

PeerConfig HowToReachPeers(const OrchestratorDaemonConfig& config, const Tls& tls) {
  PeerConfig peers{.run_folder = config.run.folder, .run = config.run.name, .tls = tls};
  peers.call = config.orchestrator.plan.peers.call_deadline;
  peers.env_call = config.orchestrator.plan.peers.env_deadline;
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

// Tells the run's folder and the log where we serve. The page stands beside /metrics.
absl::Status Announce(const std::string& folder, const std::string& rpc, const HostPort& http) {
  ASSIGN_OR_RETURN(const Address own, OwnAddress(rpc, http.host, http.port));
  RETURN_IF_ERROR(WriteAddress(folder, "orchestrator", 0, own));
  RETURN_IF_ERROR(WriteAddress(folder, "page", 0, {own.metrics, own.pid}));
  Log(Severity::kInfo, "orchestrator serves",
      {{"address", rpc}, {"metrics_port", http.port}, {"page", own.metrics}});
  return absl::OkStatus();
}

// What is written about the run beside its ledger. A failure is told, and ends that.
class Records {
 public:
  explicit Records(const OrchestratorDaemonConfig& config)
      : folder_(config.run.folder),
        traces_(config.orchestrator.trace_every > 0),
        trace_(folder_, config.run.seed, config.orchestrator.trace_every) {}

  absl::Status Open(orchestrator::Run& run) {
    ASSIGN_OR_RETURN(curves_, CurveRecord::Open(folder_, run.Now().attempt, SystemClock()));
    if (traces_) run.SetTrace(&trace_);
    return absl::OkStatus();
  }
  void Update(bool ended) {
    if (!status_.ok()) return;
    status_ = curves_->Update();
    if (traces_) status_.Update(trace_.Update(ended));
    if (status_.ok()) return;
    Log(Severity::kWarning, "curves and traces end here", {{"status", status_.ToString()}});
  }

 private:
  const std::string folder_;
  const bool traces_;
  StepTrace trace_;
  std::unique_ptr<CurveRecord> curves_;
  absl::Status status_;
};

// Draws the panel, keeps the ledger's clock and the records until the run ends; a stop signal
// drains it.
void Accompany(orchestrator::Run& run, Records& records, StopSignal& stop, absl::Duration grace,
               bool terminal) {
  Panel panel;
  bool told = false;
  while (!run.Ended()) {
    run.Beat();
    records.Update(false);
    if (terminal) panel.Draw(run.Now());
    if (told) {
      SystemClock().SleepFor(kRedraw);
    } else if (stop.WaitFor(kRedraw)) {
      told = true;
      run.Drain(grace);
    }
  }
  records.Update(true);
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
  ASSIGN_OR_RETURN(auto settings, Settings(config));
  Records records(config);  // outlives the run, whose calls it takes
  ASSIGN_OR_RETURN(
      const auto run,
      OfStart(orchestrator::Run::Open(
          plan, {config.run.name, config.run.folder, config.run.seed, command, std::move(settings)},
          {env, inference, trainer, codec}, metrics, SystemClock())));
  RETURN_IF_ERROR(records.Open(*run));
  const auto fleet = [&] {
    std::vector<PeerFacts> facts = inference.Facts();
    for (const PeerFacts& peer : env.Facts()) facts.push_back(peer);
    facts.push_back(trainer.Facts());
    return facts;
  };
  OrchestratorServer service(
      *run, AboutUs(config), fleet, [&stop] { return stop.Requested(); }, codec);
  ASSIGN_OR_RETURN(const auto page,
                   OfStart(RunPage::Open(config.run.folder, codec, SystemClock(),
                                         LiveRun{[&run] { return run->Now(); }, fleet})));
  ASSIGN_OR_RETURN(const Listening at,
                   ReadListen("orchestrator", config.orchestrator.serve, config.tls));
  ASSIGN_OR_RETURN(const auto server,
                   RpcServer::Start(at.rpc, {&service}, metrics, SystemClock(), tls));
  ASSIGN_OR_RETURN(
      const auto http,
      MetricsServer::Start(
          at.metrics.host, at.metrics.port, metrics,
          [&] { return run->Ended() ? absl::UnavailableError("ended") : absl::OkStatus(); },
          tls.https(), [&page](const HttpRequest& request) { return page->Answer(request); }));
  RETURN_IF_ERROR(Announce(config.run.folder, server->address(), {at.metrics.host, http->port()}));
  absl::Status status;
  std::thread loop([&] { status = run->Execute(); });
  Accompany(*run, records, stop, config.orchestrator.drain_grace, terminal);
  loop.join();
  if (!stop.Requested()) SystemClock().SleepFor(kLastLook);
  server->Shutdown();
  for (const char* what : {"orchestrator", "page"}) {
    status.Update(RemoveAddress(config.run.folder, what, 0, getpid()));
  }
  return status;
}

// A job of a chain whose run is over ends well; but not when it was to go further.
absl::Status CheckFolder(const OrchestratorDaemonConfig& config) {
  const auto ledger = Ledger::Read(config.run.folder + "/ledger.sqlite");
  if (!ledger.ok()) return absl::OkStatus();  // there is none, or the start will say what it is
  return CheckTarget(**ledger, config.run.folder, config.orchestrator.plan.rl.steps);
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
      },
      orchestrator::CheckFolder);
}
