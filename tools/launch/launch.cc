#include "tools/launch/launch.h"

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/config/flags.h"
#include "common/config/run_sections.h"
#include "common/rpc/daemon.h"
#include "common/rpc/tls.h"
#include "tools/launch/daemon_sets.h"
#include "tools/launch/outcome.h"
#include "tools/launch/placement.h"
#include "tools/launch/progress_watch.h"
#include "tools/launch/run_folder.h"
#include "tools/launch/screen.h"
#include "tools/launch/shared_cores.h"
#include "tools/launch/slurm_place.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {

// What launch reads of the YAML; each daemon judges its own part.
struct LaunchConfig {
  RunSection run;
  TlsSection tls;
  PlacementSection placement;
};
void Bind(Binder& b, LaunchConfig& c) {
  b.Section("run", c.run);
  b.Section("tls", c.tls);
  b.Section("placement", c.placement);
}

namespace {

namespace fs = std::filesystem;

constexpr char kName[] = "palimpsest launch";
constexpr absl::Duration kUntilKilled = absl::Minutes(5);

absl::StatusOr<LaunchConfig> ReadConfig(const LaunchOptions& options) {
  constexpr std::string_view kOthers[] = {"model",   "inference",    "router",
                                          "trainer", "orchestrator", "env"};
  const ParsedFlags flags{.config_file = options.config, .sets = options.sets};
  LaunchConfig config;
  RETURN_IF_ERROR(LoadConfig(flags, kOthers, config));
  RETURN_IF_ERROR(WithPlace(Validate(config.run), flags));
  RETURN_IF_ERROR(WithPlace(Validate(config.placement), flags));
  RETURN_IF_ERROR(WithPlace(Validate(config.tls, Role::kOperator, SystemClock().Now()), flags));
  return config;
}

// The daemons, without their logs. `nodes`: of the Slurm job, null on one machine.
absl::StatusOr<std::vector<DaemonSpec>> MakeSpecs(const LaunchOptions& options,
                                                  const LaunchConfig& config,
                                                  const std::vector<std::string>* nodes) {
  std::vector<DaemonSpec> specs;
  for (const std::string_view role : kRoles) {
    const RolePlacement& place = config.placement.Of(role);
    for (int i = 0; i < place.processes(); ++i) {
      const int node = place.nodes[static_cast<size_t>(i) % place.nodes.size()];
      std::vector<std::string> sets =
          SetsOf(role, i, config.placement,
                 nodes == nullptr ? nullptr : &(*nodes)[static_cast<size_t>(node)]);
      if (role == kLeader) sets.push_back(TextSet("orchestrator.command", options.command));
      sets.insert(sets.end(), options.sets.begin(), options.sets.end());
      ASSIGN_OR_RETURN(DaemonSpec spec, MakeSpec(role, i, config.run.folder, options.config, sets));
      spec.leads = role == kLeader;
      if (place.ranks > 1) spec.team = std::string(role);
      spec.node = node;
      spec.cpus = place.cpus;
      spec.gpus = place.gpus;
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

// One run as launch sees it, from the configuration to the outcome.
class Launch {
 public:
  explicit Launch(const LaunchOptions& options) : options_(options) {}

  // INVALID or FAILED_PRECONDITION before anything is started. Then all is ready for Go.
  absl::Status Prepare();
  // Only with --slurm: a job of a chain whose run another job has brought to its end. That it was
  // the end that is asked for here, the orchestrator has said of its configuration.
  bool IsOver() const {
    return slurm_ != nullptr && fs::exists(ReportOf(config_.run.folder)) &&
           fs::exists(config_.run.folder + "/ledger.sqlite");
  }
  void SayIsOver();
  int Go();

 private:
  const Place& place() const {
    return slurm_ != nullptr ? *slurm_ : static_cast<const Place&>(local_);
  }
  int WithoutReport() const;
  void Requeue();
  void PrintOutcome(const RunEnding& ending) const {
    std::cout << OutcomeJson(config_.run, attempt_.number, ending, slurm_.get()) << std::endl;
  }

  std::optional<StopSignal> stop_{std::in_place};  // from the first: a warning may come any time
  const LaunchOptions& options_;
  LaunchConfig config_;
  Tls tls_;
  LocalPlace local_;
  std::unique_ptr<SlurmPlace> slurm_;
  std::vector<DaemonSpec> specs_;
  Attempt attempt_;
  Screen screen_;
};

absl::Status Launch::Prepare() {
  ASSIGN_OR_RETURN(config_, ReadConfig(options_));
  ASSIGN_OR_RETURN(tls_, Tls::Open(config_.tls, Role::kOperator, SystemClock()));
  if (options_.slurm) {
    ASSIGN_OR_RETURN(slurm_, SlurmPlace::OfThisJob());
    RETURN_IF_ERROR(ValidateNodes(config_.placement, slurm_->nodes().size()));
  } else {
    RETURN_IF_ERROR(ValidateWithoutSlurm(config_.placement));
  }
  ASSIGN_OR_RETURN(specs_, MakeSpecs(options_, config_, slurm_ ? &slurm_->nodes() : nullptr));
  // All daemons read the file before any of them starts.
  for (const DaemonSpec& spec : specs_) RETURN_IF_ERROR(CheckConfigOf(spec));
  if (IsOver()) return absl::OkStatus();
  ASSIGN_OR_RETURN(attempt_, BeginAttempt(config_.run.folder));
  for (DaemonSpec& spec : specs_) spec.log_file = attempt_.LogOf(spec.name);
  return absl::OkStatus();
}

void Launch::SayIsOver() {
  screen_.Say("this run is over: " + ReportOf(config_.run.folder));
  PrintOutcome({});
}

int Launch::Go() {
  RunEnding ending;
  if (slurm_ != nullptr) {
    screen_.Say(absl::StrFormat("job %s, restart %d, attempt %d", slurm_->job(), slurm_->restarts(),
                                attempt_.number));
  }
  {
    const ProgressWatch watch(config_.run.folder, tls_,
                              [this](const v1::Progress& p) { screen_.Show(p); });
    ending = Supervise(
        specs_, {.stop_grace = config_.placement.stop_grace}, place(), *stop_, SystemClock(),
        [this](const std::string& line) { screen_.Say(line); },
        [this] { return attempt_.lease->Held(); });
  }
  if (slurm_ != nullptr && ending.exit_code == kExitOk && !IsOver()) {
    screen_.Say("the orchestrator was asked to stop before the run was over");
    ending.exit_code = WithoutReport();
  }
  if (!ending.failure.empty()) screen_.Say(FailureText(ending));
  PrintOutcome(ending);
  if (slurm_ != nullptr && ending.exit_code == kExitLater) Requeue();
  return ending.exit_code;
}

// Slurm asks the steps alone to end when it preempts a job without its warning: the orchestrator
// ends well, and there is more to do. With `scancel` it asks launch, too, maybe a moment later.
int Launch::WithoutReport() const {
  const bool cancelled = stop_->Requested() && stop_->signal() != SIGUSR1;
  return cancelled ? 128 + stop_->signal() : kExitLater;
}

// Slurm then kills what is left here. To end before that would count as the job's own failure.
void Launch::Requeue() {
  screen_.Say("the job goes back into the queue");
  attempt_.lease.reset();  // nothing is at work any more: the next attempt need not wait
  if (const absl::Status queued = slurm_->Requeue(); !queued.ok()) {
    screen_.Say(std::string(queued.message()));
    return;
  }
  stop_.reset();
  SystemClock().SleepFor(kUntilKilled);
}

}  // namespace

int RunLaunch(const LaunchOptions& options) {
  ShareCores();
  Launch launch(options);
  if (const absl::Status status = launch.Prepare(); !status.ok()) return UsageError(kName, status);
  if (!launch.IsOver()) return launch.Go();
  launch.SayIsOver();
  return kExitOk;
}

}  // namespace palimpsest::tools
