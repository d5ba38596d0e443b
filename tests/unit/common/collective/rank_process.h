#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace palimpsest {

// A program of the tests as a process of its own, killed with this object. What it prints goes to
// the file `output`, its log to one beside it.
class RankProcess {
 public:
  RankProcess(std::vector<std::string> argv, std::string output)
      : output_(Fresh(std::move(output))), pid_(fork()) {
    if (pid_ != 0) return;
    constexpr int kNew = O_WRONLY | O_CREAT | O_TRUNC;
    dup2(open(output_.c_str(), kNew, 0644), STDOUT_FILENO);
    dup2(open((output_ + ".log").c_str(), kNew, 0644), STDERR_FILENO);
    std::vector<char*> words;
    for (std::string& word : argv) words.push_back(word.data());
    words.push_back(nullptr);
    execv(words[0], words.data());
    _exit(127);
  }
  ~RankProcess() {
    Signal(SIGKILL);
    AwaitEnd(absl::Minutes(1));
  }
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  void Signal(int signal) const {
    if (!ended_) kill(pid_, signal);
  }
  // Its exit code, 128 + n when signal n ended it, -1 when it still runs after `patience`.
  int AwaitEnd(absl::Duration patience) {
    const absl::Time until = absl::Now() + patience;
    while (!ended_ && absl::Now() < until) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        ended_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      } else {
        absl::SleepFor(absl::Milliseconds(10));
      }
    }
    return ended_.value_or(-1);
  }
  // Without what Gloo says of itself.
  std::string Output() const {
    std::ifstream file(output_);
    std::string text;
    for (std::string line; std::getline(file, line);) {
      if (!line.starts_with("[Gloo]")) text += line + "\n";
    }
    return text;
  }
  // Until it has printed `text`; false when it ends or `patience` does before.
  bool AwaitOutput(const std::string& text, absl::Duration patience) {
    const absl::Time until = absl::Now() + patience;
    while (Output().find(text) == std::string::npos) {
      if (absl::Now() >= until || AwaitEnd(absl::ZeroDuration()) != -1) {
        return Output().find(text) != std::string::npos;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    return true;
  }

 private:
  // What an earlier process wrote there is not this one's.
  static std::string Fresh(std::string output) {
    unlink(output.c_str());
    return output;
  }

  const std::string output_;
  const pid_t pid_;
  std::optional<int> ended_;
};

using RankProcesses = std::vector<std::unique_ptr<RankProcess>>;

}  // namespace palimpsest
