#include "common/telemetry/log.h"

#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace palimpsest {
namespace {

struct LogState {
  absl::Mutex mu;
  LogConfig config ABSL_GUARDED_BY(mu);
  std::function<void(const std::string&)> sink ABSL_GUARDED_BY(mu);
};

// Never destroyed: threads may log while the process ends.
LogState& State() {
  static LogState* state = new LogState;
  return *state;
}

void WriteToStderr(const std::string& line) {
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n < 0 && errno != EINTR) return;
    if (n > 0) done += static_cast<size_t>(n);
  }
}

}  // namespace

std::string_view SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kDebug:
      return "debug";
    case Severity::kInfo:
      return "info";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "error";
}

void SetLogConfig(const LogConfig& config) {
  LogState& state = State();
  absl::MutexLock lock(&state.mu);
  state.config = config;
}

void Log(Severity severity, std::string_view message, std::initializer_list<LogField> fields) {
  LogState& state = State();
  absl::MutexLock lock(&state.mu);
  const LogConfig& config = state.config;
  if (severity < config.level) return;
  Clock& clock = config.clock != nullptr ? *config.clock : SystemClock();
  nlohmann::ordered_json json;
  json["time"] = absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", clock.Now(), absl::UTCTimeZone());
  json["level"] = SeverityName(severity);
  json["role"] = config.role;
  json["run"] = config.run;
  json["msg"] = message;
  for (const LogField& field : fields) {
    std::visit([&](const auto& value) { json[field.key] = value; }, field.value);
  }
  const std::string line =
      json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  if (state.sink) {
    state.sink(line);
  } else {
    WriteToStderr(line + "\n");
  }
}

ScopedLogSink::ScopedLogSink(std::function<void(const std::string&)> sink) {
  absl::MutexLock lock(&State().mu);
  State().sink = std::move(sink);
}

ScopedLogSink::~ScopedLogSink() {
  absl::MutexLock lock(&State().mu);
  State().sink = nullptr;
}

}  // namespace palimpsest
