#include "services/env/engine/worker_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/telemetry/log.h"

namespace palimpsest::env {
namespace {

constexpr int kChannel = 3;         // the socket, in the child
constexpr int kHigh = 10;           // above whatever dup2 is to write over
constexpr int kCannotExec = 127;    // as in shells
constexpr size_t kMaxLine = 1024;   // bytes of a line that are logged
constexpr size_t kMaxQuoted = 300;  // of the last one, in a reason
constexpr int kMaxLines = 1000;     // lines of one life that are logged
constexpr int kLastReads = 64;      // of what a dead process left in the pipe
constexpr size_t kHeader = 4;

// What the child needs, made before fork: after it only calls that are safe there are left.
struct ChildPlan {
  std::vector<char*> argv, environment;  // end with nullptr
  int socket = -1, output = -1;          // at least kHigh
  rlim_t memory = RLIM_INFINITY;
  pid_t parent = 0;
};

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

[[noreturn]] void Become(const ChildPlan& plan) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != plan.parent) _exit(kCannotExec);  // the parent died before prctl
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) ::signal(signal, SIG_DFL);
  const rlimit no_core{0, 0}, memory{plan.memory, plan.memory};
  setrlimit(RLIMIT_CORE, &no_core);
  setrlimit(RLIMIT_AS, &memory);
  const int null = open("/dev/null", O_RDONLY);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(plan.output, STDOUT_FILENO) < 0 ||
      dup2(plan.output, STDERR_FILENO) < 0 || dup2(plan.socket, kChannel) < 0) {
    _exit(kCannotExec);
  }
  close_range(kChannel + 1, ~0U, 0);
  execve(plan.argv[0], plan.argv.data(), plan.environment.data());
  _exit(kCannotExec);
}

std::string Header(size_t length) {
  std::string header;
  for (int shift = 24; shift >= 0; shift -= 8) header += static_cast<char>(length >> shift & 0xff);
  return header;
}

size_t FrameLength(std::string_view header) {
  size_t length = 0;
  for (const char byte : header.substr(0, kHeader)) {
    length = length << 8 | static_cast<unsigned char>(byte);
  }
  return length;
}

UniqueFd Above(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, kHigh)); }

absl::Status Ended() { return absl::UnavailableError("it ended"); }

absl::Status Unasked() { return absl::DataLossError("it wrote what nobody asked for"); }

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(const WorkerCommand& command,
                                                                    Clock& clock) {
  if (access(command.argv[0].c_str(), X_OK) != 0) {
    return absl::ErrnoToStatus(errno, command.argv[0]);
  }
  auto process = std::unique_ptr<WorkerProcess>(new WorkerProcess(command.name, clock));
  int sockets[2], pipes[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  process->socket_ = UniqueFd(sockets[0]);
  const UniqueFd theirs(sockets[1]);
  if (pipe2(pipes, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  process->output_ = UniqueFd(pipes[0]);
  const UniqueFd writes(pipes[1]);
  fcntl(process->output_.get(), F_SETFL, O_NONBLOCK);
  const UniqueFd high_socket = Above(theirs.get()), high_output = Above(writes.get());
  if (high_output.get() < 0) return absl::ErrnoToStatus(errno, "fcntl");

  ChildPlan plan{.argv = Pointers(command.argv),
                 .environment = Pointers(command.environment),
                 .socket = high_socket.get(),
                 .output = high_output.get(),
                 .parent = getpid()};
  if (command.memory_bytes > 0) plan.memory = static_cast<rlim_t>(command.memory_bytes);
  process->pid_ = fork();
  if (process->pid_ == 0) Become(plan);
  if (process->pid_ < 0) return absl::ErrnoToStatus(errno, "fork");
  setpgid(process->pid_, process->pid_);  // whoever of the two comes first
  return process;
}

WorkerProcess::~WorkerProcess() { End(absl::ZeroDuration()); }

absl::StatusOr<WorkerProcess::Ready> WorkerProcess::Poll(bool to_write, int wake,
                                                         absl::Time deadline) {
  const auto events = static_cast<short>(to_write ? POLLIN | POLLOUT : POLLIN);
  while (true) {
    const absl::Duration left = deadline - clock_.Now();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("it gave no answer");
    const absl::Duration wait = std::min(left, absl::Minutes(1)) + absl::Milliseconds(1);
    pollfd fds[] = {{socket_.get(), events, 0}, {output_.get(), POLLIN, 0}, {wake, POLLIN, 0}};
    if (poll(fds, std::size(fds), static_cast<int>(absl::ToInt64Milliseconds(wait))) < 0 &&
        errno != EINTR) {
      return absl::ErrnoToStatus(errno, "poll");
    }
    if (fds[1].revents != 0) ReadOutput();
    const Ready ready{.readable = (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0,
                      .writable = (fds[0].revents & POLLOUT) != 0,
                      .woken = fds[2].revents != 0};
    if (ready.readable || ready.writable || ready.woken) return ready;
  }
}

absl::Status WorkerProcess::Send(std::string_view frame, size_t& sent) {
  const ssize_t n =
      send(socket_.get(), frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n >= 0) sent += static_cast<size_t>(n);
  return n >= 0 || errno == EAGAIN || errno == EINTR ? absl::OkStatus() : Ended();
}

absl::Status WorkerProcess::Receive(std::string& received) {
  char bytes[1 << 16];
  const ssize_t n = recv(socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (n > 0) received.append(bytes, static_cast<size_t>(n));
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)) ? absl::OkStatus() : Ended();
}

absl::StatusOr<std::string> WorkerProcess::Exchange(std::string_view request, absl::Time deadline,
                                                    int stop) {
  std::string frame = Header(request.size()), received;
  frame += request;
  size_t sent = 0;
  while (true) {
    ASSIGN_OR_RETURN(const Ready ready, Poll(sent < frame.size(), stop, deadline));
    if (ready.woken) return absl::CancelledError("the daemon stops");
    if (ready.writable) RETURN_IF_ERROR(Send(frame, sent));
    if (!ready.readable) continue;
    RETURN_IF_ERROR(Receive(received));
    if (received.empty()) continue;
    if (sent < frame.size()) return Unasked();
    if (received.size() < kHeader) continue;
    const size_t length = FrameLength(received);
    if (length > kMaxFrame) {
      return absl::DataLossError(
          absl::StrFormat("it wrote a frame of %d bytes, at most %d", length, kMaxFrame));
    }
    if (received.size() > kHeader + length) return Unasked();
    if (received.size() == kHeader + length) return received.substr(kHeader);
  }
}

absl::Status WorkerProcess::AwaitWork(int work) {
  while (true) {
    ASSIGN_OR_RETURN(const Ready ready, Poll(false, work, absl::InfiniteFuture()));
    if (ready.readable) {
      std::string unasked;
      RETURN_IF_ERROR(Receive(unasked));
      if (!unasked.empty()) return Unasked();
    }
    if (ready.woken) return absl::OkStatus();
  }
}

bool WorkerProcess::HasEnded() const {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == pid_;
}

std::string WorkerProcess::End(absl::Duration grace) {
  if (pid_ > 0 && !reaped_) {
    const absl::Time kill_at = clock_.Now() + grace;
    while (clock_.Now() < kill_at && !HasEnded()) clock_.SleepFor(absl::Milliseconds(5));
    kill(-pid_, SIGKILL);  // what it started, too
    kill(pid_, SIGKILL);
    while (waitpid(pid_, &wait_status_, 0) < 0 && errno == EINTR) {
    }
    reaped_ = true;
    for (int i = 0; i < kLastReads && ReadOutput(); ++i) {
    }
    Say(partial_);
  }
  const std::string how = WIFSIGNALED(wait_status_)
                              ? absl::StrFormat("signal %d (%s)", WTERMSIG(wait_status_),
                                                strsignal(WTERMSIG(wait_status_)))
                              : absl::StrFormat("exit code %d", WEXITSTATUS(wait_status_));
  if (last_line_.empty()) return how;
  return absl::StrFormat("%s, last line: \"%s\"", how, absl::CHexEscape(last_line_));
}

bool WorkerProcess::ReadOutput() {
  char bytes[1 << 16];
  const ssize_t n = read(output_.get(), bytes, sizeof bytes);
  if (n < 0) return errno == EINTR;
  if (n == 0) output_.Close();
  std::string_view rest(bytes, static_cast<size_t>(n));
  for (size_t end = rest.find('\n'); end != rest.npos; end = rest.find('\n')) {
    partial_.append(rest.substr(0, std::min(end, kMaxLine)));
    Say(partial_);
    partial_.clear();
    rest.remove_prefix(end + 1);
  }
  if (partial_.size() < kMaxLine) partial_.append(rest.substr(0, kMaxLine));
  return n > 0;
}

void WorkerProcess::Say(std::string_view line) {
  line = line.substr(0, kMaxLine);
  if (line.find_first_not_of(" \t\r") == line.npos) return;
  last_line_ = std::string(line.substr(0, kMaxQuoted));
  if (++lines_ > kMaxLines + 1) return;
  Log(Severity::kInfo, lines_ > kMaxLines ? "further lines are dropped" : "a worker says",
      {{"worker", name_}, {"pid", pid_}, {"line", line}});
}

}  // namespace palimpsest::env
