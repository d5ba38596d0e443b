#include "tools/launch/launch.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/config/flags.h"
#include "common/config/run_sections.h"
#include "common/rpc/daemon.h"
#include "tools/launch/child_process.h"
#include "tools/launch/placement.h"
#include "tools/launch/progress_watch.h"
#include "tools/launch/run_folder.h"
#include "tools/launch/screen.h"
#include "tools/launch/slurm_place.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {

// What launch reads of the YAML; each daemon judges its own part.
struct LaunchConfig {
  RunSection run;
  PlacementSection placement;
};
void Bind(Binder& b, LaunchConfig& c) {
  b.Section("run", c.run);
  b.Section("placement", c.placement);
}

namespace {

namespace fs = std::filesystem;

constexpr char kName[] = "palimpsest launch";
constexpr std::string_view kLeader = "orchestrator";
constexpr absl::Duration kUntilKilled = absl::Minutes(5);
constexpr int kLogTail = 15;  // lines shown of a daemon that failed

absl::StatusOr<LaunchConfig> ReadConfig(const LaunchOptions& options) {
  constexpr std::string_view kOthers[] = {"model", "inference", "trainer", "orchestrator", "env"};
  const ParsedFlags flags{.config_file = options.config, .sets = options.sets};
  LaunchConfig config;
  RETURN_IF_ERROR(LoadConfig(flags, kOthers, config));
  RETURN_IF_ERROR(WithPlace(Validate(config.run), flags));
  RETURN_IF_ERROR(WithPlace(Validate(config.placement), flags));
  return config;
}

// What launch itself says to one daemon, before the user's own --set.
std::vector<std::string> SetsOf(std::string_view role, int replica, const PlacementSection& place,
                                const std::string* node) {
  std::vector<std::string> sets;
  const int replicas = place.Of(role).replicas;
  if (replicas > 1) sets.push_back(absl::StrFormat("%s.rank=%d", role, replica));
  if (role == kLeader) {
    for (const std::string_view peer : {"inference", "env"}) {
      const int count = place.Of(peer).replicas;
      if (count > 1) sets.push_back(absl::StrFormat("orchestrator.peers.%s=%d", peer, count));
    }
  }
  if (node == nullptr) return sets;
  // `<role>.insecure` is the user's to say: the daemon refuses this without it.
  for (const char* key : {"listen", "metrics"}) {
    sets.push_back(absl::StrFormat("%s.%s=0.0.0.0:0", role, key));
  }
  sets.push_back(absl::StrFormat("%s.advertise=%s", role, *node));
  return sets;
}

// The daemons, without their logs. `nodes`: of the Slurm job, null on one machine.
absl::StatusOr<std::vector<DaemonSpec>> MakeSpecs(const LaunchOptions& options,
                                                  const LaunchConfig& config,
                                                  const std::vector<std::string>* nodes) {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError("/proc/self/exe: " + error.message());
  std::vector<DaemonSpec> specs;
  for (const std::string_view role : kRoles) {
    const RolePlacement& place = config.placement.Of(role);
    for (int i = 0; i < place.replicas; ++i) {
      DaemonSpec spec{.name = absl::StrFormat("%s-%d", role, i), .leads = role == kLeader};
      spec.role = std::string(role);
      spec.node = place.nodes[static_cast<size_t>(i) % place.nodes.size()];
      spec.cpus = place.cpus;
      spec.gpus = place.gpus;
      spec.address_file = absl::StrFormat("%s/addresses/%s", config.run.folder, spec.name);
      spec.argv = {(self.parent_path() / absl::StrFormat("palimpsest-%s", role)).string(),
                   "--config", options.config};
      const std::string* const node =
          nodes == nullptr ? nullptr : &(*nodes)[static_cast<size_t>(spec.node)];
      std::vector<std::string> sets = SetsOf(role, i, config.placement, node);
      sets.insert(sets.end(), options.sets.begin(), options.sets.end());
      for (const std::string& set : sets) spec.argv.insert(spec.argv.end(), {"--set", set});
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

// Each daemon reads the file before any of them starts; it tells itself on stderr what is wrong.
absl::Status CheckConfigs(const std::vector<DaemonSpec>& specs) {
  for (const DaemonSpec& spec : specs) {
    std::vector<std::string> argv = spec.argv;
    argv.push_back("--check-config");
    ASSIGN_OR_RETURN(ChildProcess check, ChildProcess::Start(argv, ""));
    const Ending ended = check.Wait();
    if (!ended.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s refuses the configuration (%s)", spec.name, ended.Text()));
    }
  }
  return absl::OkStatus();
}

void ShowLogTails(const std::vector<DaemonSpec>& specs, const std::string& failure) {
  for (const DaemonSpec& spec : specs) {
    if (failure.rfind(spec.name + " ", 0) != 0) continue;
    std::ifstream log(spec.log_file);
    std::vector<std::string> lines;
    for (std::string line; std::getline(log, line);) lines.push_back(line);
    const size_t first = lines.size() > kLogTail ? lines.size() - kLogTail : 0;
    for (size_t i = first; i < lines.size(); ++i) std::cerr << "  | " << lines[i] << '\n';
  }
}

// One run as launch sees it, from the configuration to the outcome.
class Launch {
 public:
  explicit Launch(const LaunchOptions& options) : options_(options) {}

  // INVALID or FAILED_PRECONDITION before anything is started. Then all is ready for Go.
  absl::Status Prepare();
  // Only with --slurm: a job of a chain whose run another job has brought to its end.
  bool IsOver() const { return slurm_ != nullptr && fs::exists(ReportOf(config_.run.folder)); }
  void SayIsOver();
  int Go();

 private:
  const Place& place() const {
    return slurm_ != nullptr ? *slurm_ : static_cast<const Place&>(local_);
  }
  absl::Status Begin();
  void Requeue();
  void PrintOutcome(const RunEnding& ending) const;

  std::optional<StopSignal> stop_{std::in_place};  // from the first: a warning may come any time
  const LaunchOptions& options_;
  LaunchConfig config_;
  LocalPlace local_;
  std::unique_ptr<SlurmPlace> slurm_;
  std::vector<DaemonSpec> specs_;
  Attempt attempt_;
  Screen screen_;
};

absl::Status Launch::Prepare() {
  ASSIGN_OR_RETURN(config_, ReadConfig(options_));
  if (options_.slurm) {
    ASSIGN_OR_RETURN(slurm_, SlurmPlace::OfThisJob());
    RETURN_IF_ERROR(ValidateNodes(config_.placement, slurm_->nodes().size()));
  }
  ASSIGN_OR_RETURN(specs_, MakeSpecs(options_, config_, slurm_ ? &slurm_->nodes() : nullptr));
  RETURN_IF_ERROR(CheckConfigs(specs_));
  return IsOver() ? absl::OkStatus() : Begin();
}

absl::Status Launch::Begin() {
  const std::string& folder = config_.run.folder;
  RETURN_IF_ERROR(LockRun(folder));
  ASSIGN_OR_RETURN(attempt_, BeginAttempt(folder));
  for (DaemonSpec& spec : specs_) {
    spec.log_file = absl::StrFormat("%s/%s.log", attempt_.folder, spec.name);
  }
  ForgetAddresses(folder);
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
    const ProgressWatch watch(config_.run.folder,
                              [this](const v1::Progress& p) { screen_.Show(p); });
    ending = Supervise(specs_, {.stop_grace = config_.placement.stop_grace}, place(), *stop_,
                       SystemClock(), [this](const std::string& line) { screen_.Say(line); });
  }
  if (!ending.failure.empty()) {
    screen_.Say(ending.failure);
    ShowLogTails(specs_, ending.failure);
  }
  PrintOutcome(ending);
  if (slurm_ != nullptr && ending.exit_code == kExitAgain) Requeue();
  return ending.exit_code;
}

// Slurm then kills what is left here. To end before that would count as the job's own failure.
void Launch::Requeue() {
  screen_.Say("the job goes back into the queue");
  if (const absl::Status queued = slurm_->Requeue(); !queued.ok()) {
    screen_.Say(std::string(queued.message()));
    return;
  }
  stop_.reset();
  SystemClock().SleepFor(kUntilKilled);
}

void Launch::PrintOutcome(const RunEnding& ending) const {
  const std::string report = ReportOf(config_.run.folder);
  nlohmann::json outcome = {{"run", config_.run.name},
                            {"folder", config_.run.folder},
                            {"exit_code", ending.exit_code},
                            {"attempt", attempt_.number},
                            {"restarts", ending.restarts}};
  if (slurm_ != nullptr) {
    outcome["job"] = {
        {"id", slurm_->job()}, {"restart", slurm_->restarts()}, {"nodes", slurm_->nodes()}};
  }
  if (!ending.lost.empty()) outcome["lost"] = ending.lost;
  if (!ending.failure.empty()) outcome["failure"] = ending.failure;
  if (ending.exit_code == 0 && fs::exists(report)) outcome["report"] = report;
  std::cout << outcome.dump() << std::endl;
}

}  // namespace

int RunLaunch(const LaunchOptions& options) {
  // Daemons share the cores: a thread that spins while it waits for its team (OpenMP's default)
  // takes the core from another daemon. libgomp reads this when it is loaded, so it must be there
  // before exec. A value of the user's stays.
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  Launch launch(options);
  if (const absl::Status status = launch.Prepare(); !status.ok()) return UsageError(kName, status);
  if (!launch.IsOver()) return launch.Go();
  launch.SayIsOver();
  return kExitOk;
}

}  // namespace palimpsest::tools
