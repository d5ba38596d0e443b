#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::tools {

// How a process ended.
struct Ending {
  int code = 0;    // exit code; meaningful when signal is 0
  int signal = 0;  // that killed it, or 0
  bool ok() const { return code == 0 && signal == 0; }
  std::string Text() const;  // "exit code 1", "killed by signal 9 (Killed)"
};

// Path of another program of this build: it stands in the folder of this one.
absl::StatusOr<std::string> ProgramBeside(const std::string& name);

// A program in its own process group; a SIGINT from the terminal does not reach it. It gets SIGTERM
// when the thread that started it ends, however that ends. Owner: that thread.
class ChildProcess {
 public:
  // `argv[0]` is the path of the program. stdout and stderr are appended to `log_file`; empty: they
  // stay ours. stdin is empty.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& argv,
                                            const std::string& log_file);
  ~ChildProcess();  // kills what still runs
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;

  pid_t pid() const { return pid_; }
  // nullopt while it runs. Does not block.
  std::optional<Ending> Poll();
  Ending Wait();
  void Signal(int signal);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_ = 0;                 // 0: moved from
  std::optional<Ending> ending_;  // once it was reaped
};

}  // namespace palimpsest::tools
