#include "tools/launch/launch.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/config/flags.h"
#include "common/config/run_sections.h"
#include "common/rpc/daemon.h"
#include "tools/launch/outcome.h"
#include "tools/launch/progress_panel.h"
#include "tools/launch/progress_watch.h"
#include "tools/launch/run_folder.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {

// What launch reads of the YAML; each daemon judges its own part.
struct LaunchConfig {
  RunSection run;
};
void Bind(Binder& b, LaunchConfig& c) { b.Section("run", c.run); }

namespace {

constexpr std::string_view kRoles[] = {"env", "trainer", "inference", "orchestrator"};
constexpr std::string_view kLeader = "orchestrator";

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
  std::vector<DaemonSpec> specs;
  for (const std::string_view role : kRoles) {
    const bool leads = role == kLeader;
    std::vector<std::string> sets = options.sets;
    if (leads) sets.push_back(TextSet("orchestrator.command", options.command));
    ASSIGN_OR_RETURN(DaemonSpec spec, MakeSpec(role, run_folder, options.config, sets));
    spec.leads = leads;
    specs.push_back(std::move(spec));
  }
  return specs;
}

// All daemons read the file before any of them starts.
absl::Status Prepare(const std::vector<DaemonSpec>& specs, const std::string& run_folder) {
  for (const DaemonSpec& spec : specs) RETURN_IF_ERROR(CheckConfigOf(spec));
  return TakeRunFolder(run_folder);
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
  if (status.ok()) status = Prepare(*specs, folder);
  if (!status.ok()) return UsageError("palimpsest launch", status);

  StopSignal stop;
  Screen screen;
  RunEnding ending;
  {
    const ProgressWatch watch(folder, [&screen](const v1::Progress& p) { screen.Show(p); });
    ending = Supervise(*specs, {}, stop, SystemClock(),
                       [&screen](const std::string& message) { screen.Say(message); });
  }
  TellFailure("launch", ending);
  std::cout << OutcomeJson(config->run, ending) << std::endl;
  return ending.exit_code;
}

}  // namespace palimpsest::tools
