#include "tools/launch/launch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/config/flags.h"
#include "common/config/run_sections.h"
#include "common/rpc/daemon.h"
#include "tools/launch/progress_panel.h"
#include "tools/launch/progress_watch.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {

// What launch reads of the YAML; each daemon judges its own part.
struct LaunchConfig {
  RunSection run;
};
void Bind(Binder& b, LaunchConfig& c) { b.Section("run", c.run); }

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRoles[] = {"env", "trainer", "inference", "orchestrator"};
constexpr std::string_view kLeader = "orchestrator";
constexpr int kLogTail = 15;  // lines shown of a daemon that failed

// stderr: messages, and below them the panel, which is drawn over itself on a terminal and is one
// line per change elsewhere. Any thread.
class Screen {
 public:
  Screen() : terminal_(isatty(STDERR_FILENO) != 0) {}
  void Say(const std::string& message) {
    const absl::MutexLock lock(&mu_);
    Wipe();
    std::cerr << "launch: " << message << std::endl;
  }
  void Show(const v1::Progress& progress) {
    const absl::MutexLock lock(&mu_);
    if (!terminal_) {
      const std::string line = ProgressLine(progress);
      if (line != last_line_) std::cerr << line << std::endl;
      last_line_ = line;
      return;
    }
    Wipe();
    for (const std::string& line : ProgressPanel(progress, Columns())) std::cerr << line << '\n';
    drawn_ = static_cast<int>(ProgressPanel(progress, Columns()).size());
    std::cerr.flush();
  }

 private:
  static int Columns() {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  }
  // Puts the cursor where the panel began and clears from there.
  void Wipe() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (drawn_ > 0) std::cerr << absl::StrFormat("\x1b[%dA\x1b[J", drawn_);
    drawn_ = 0;
  }
  const bool terminal_;
  absl::Mutex mu_;
  int drawn_ ABSL_GUARDED_BY(mu_) = 0;
  std::string last_line_ ABSL_GUARDED_BY(mu_);
};

// One launch per run: two would fight over its addresses. Held until this process ends.
absl::Status LockRun(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder + "/logs", error);
  if (error) return absl::UnavailableError(folder + "/logs: " + error.message());
  const std::string path = folder + "/launch.lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  close(fd);
  return absl::FailedPreconditionError(
      absl::StrFormat("run.folder=%s: another launch of this run is at work", folder));
}

absl::StatusOr<LaunchConfig> ReadConfig(const LaunchOptions& options) {
  constexpr std::string_view kOthers[] = {"model", "inference", "trainer", "orchestrator", "env"};
  const ParsedFlags flags{.config_file = options.config, .sets = options.sets};
  LaunchConfig config;
  RETURN_IF_ERROR(LoadConfig(flags, kOthers, config));
  RETURN_IF_ERROR(WithPlace(Validate(config.run), flags));
  return config;
}

absl::StatusOr<std::vector<DaemonSpec>> MakeSpecs(const LaunchOptions& options,
                                                  const std::string& run_folder) {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError("/proc/self/exe: " + error.message());
  std::vector<DaemonSpec> specs;
  for (const std::string_view role : kRoles) {
    DaemonSpec spec{.name = absl::StrFormat("%s-0", role), .leads = role == kLeader};
    spec.argv = {(self.parent_path() / absl::StrFormat("palimpsest-%s", role)).string(), "--config",
                 options.config};
    for (const std::string& set : options.sets) {
      spec.argv.push_back("--set");
      spec.argv.push_back(set);
    }
    spec.log_file = absl::StrFormat("%s/logs/%s.log", run_folder, spec.name);
    specs.push_back(std::move(spec));
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

void PrintOutcome(const RunSection& run, const RunEnding& ending) {
  const std::string report = run.folder + "/report/report.json";
  nlohmann::json outcome = {{"run", run.name},
                            {"folder", run.folder},
                            {"exit_code", ending.exit_code},
                            {"restarts", ending.restarts}};
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
  const absl::StatusOr<LaunchConfig> config = ReadConfig(options);
  if (!config.ok()) return UsageError("palimpsest launch", config.status());
  const std::string& folder = config->run.folder;
  const absl::StatusOr<std::vector<DaemonSpec>> specs = MakeSpecs(options, folder);
  absl::Status status = specs.status();
  if (status.ok()) status = CheckConfigs(*specs);
  if (status.ok()) status = LockRun(folder);
  if (!status.ok()) return UsageError("palimpsest launch", status);
  // Addresses of an earlier life would only mislead: all daemons of this run are ours.
  std::error_code ignored;
  fs::remove_all(folder + "/addresses", ignored);

  StopSignal stop;
  Screen screen;
  RunEnding ending;
  {
    const ProgressWatch watch(folder, [&screen](const v1::Progress& p) { screen.Show(p); });
    ending = Supervise(*specs, {}, stop, SystemClock(),
                       [&screen](const std::string& message) { screen.Say(message); });
  }
  if (!ending.failure.empty()) {
    screen.Say(ending.failure);
    ShowLogTails(*specs, ending.failure);
  }
  PrintOutcome(config->run, ending);
  return ending.exit_code;
}

}  // namespace palimpsest::tools
