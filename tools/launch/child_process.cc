#include "tools/launch/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"

namespace palimpsest::tools {
namespace {

constexpr int kCannotExec = 127;  // as in shells

Ending EndingOf(int status) {
  if (WIFSIGNALED(status)) return {.signal = WTERMSIG(status)};
  return {.code = WEXITSTATUS(status)};
}

// In the child, between fork and exec: only calls that are safe there.
[[noreturn]] void Become(char* const* argv, pid_t parent, int log) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kCannotExec);  // the parent died before prctl
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGPIPE}) ::signal(signal, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  if (log >= 0) {
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
  }
  execv(argv[0], argv);
  _exit(kCannotExec);
}

}  // namespace

std::string Ending::Text() const {
  if (signal == 0) return absl::StrFormat("exit code %d", code);
  return absl::StrFormat("killed by signal %d (%s)", signal, strsignal(signal));
}

absl::StatusOr<std::string> ProgramBeside(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError("/proc/self/exe: " + error.message());
  return (self.parent_path() / name).string();
}

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                                 const std::string& log_file) {
  if (access(argv[0].c_str(), X_OK) != 0) return absl::ErrnoToStatus(errno, argv[0]);
  int log = -1;
  if (!log_file.empty()) {
    log = open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0) return absl::ErrnoToStatus(errno, log_file);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) Become(arguments.data(), parent, log);
  const int error = errno;
  if (log >= 0) close(log);
  if (pid < 0) return absl::ErrnoToStatus(error, "fork");
  return ChildProcess(pid);
}

ChildProcess::~ChildProcess() {
  if (pid_ == 0 || ending_) return;
  Signal(SIGKILL);
  Wait();
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), ending_(other.ending_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(ending_, other.ending_);
  return *this;
}

std::optional<Ending> ChildProcess::Poll() {
  if (ending_) return ending_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) ending_ = EndingOf(status);
  return ending_;
}

Ending ChildProcess::Wait() {
  int status = 0;
  while (!ending_) {
    if (waitpid(pid_, &status, 0) == pid_) {
      ending_ = EndingOf(status);
    } else if (errno != EINTR) {
      ending_ = Ending{.code = kCannotExec};
    }
  }
  return *ending_;
}

void ChildProcess::Signal(int signal) {
  if (!ending_) kill(pid_, signal);
}

}  // namespace palimpsest::tools
