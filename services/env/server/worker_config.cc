#include "services/env/server/worker_config.h"

#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_format.h"

namespace palimpsest::env {
namespace {

std::string Environment(const char* key, const std::string& otherwise) {
  const char* value = std::getenv(key);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

std::string PythonOf(const WorkerSection& c) {
  return c.python.empty() ? DefaultPython() : c.python;
}

// Equal in every process and on every machine: an episode must not depend on them.
std::vector<std::string> EnvironmentForPython() {
  return {"PATH=" + Environment("PATH", "/usr/bin:/bin"),
          "HOME=" + Environment("HOME", "/tmp"),
          "LANG=C.UTF-8",
          "PYTHONPATH=" PALIMPSEST_PYTHON_FOLDER,
          "PYTHONHASHSEED=0",  // else the order of a set differs from process to process
          "PYTHONUNBUFFERED=1",
          "PYTHONDONTWRITEBYTECODE=1",
          "OMP_NUM_THREADS=1",
          "OPENBLAS_NUM_THREADS=1",
          "SDL_VIDEODRIVER=dummy",
          "PYGAME_HIDE_SUPPORT_PROMPT=1"};
}

absl::Status Bad(const std::string& field, std::string_view key, int64_t value) {
  return absl::InvalidArgumentError(absl::StrFormat("%s.%s=%d is not positive", field, key, value));
}

}  // namespace

void Bind(Binder& b, WorkerSection& c) {
  b.Field("name", c.name, "for messages and metrics, different for each worker");
  b.Field("module", c.module,
          "defines environments(**options): a Python module, or the path of a .py file");
  b.Field("options", c.options, "texts for the module");
  b.Field("python", c.python,
          "path of an interpreter; empty: the one of `deploy/setup.sh --python-envs`");
  b.Field("processes", c.processes, "each works on one call at a time");
  b.Field("max_waiting", c.max_waiting, "calls that may wait for a process");
  b.Field("start_timeout", c.start_timeout, "from its start to its first answer");
  b.Field("call_timeout", c.call_timeout, "of a call; a process that needs longer is replaced");
  b.Bytes("memory", c.memory_bytes, "of address space per process; 0: no limit");
}

absl::Status Validate(const WorkerSection& c, const std::string& field) {
  if (c.name.empty()) return absl::InvalidArgumentError(field + ".name is missing");
  if (c.module.empty()) return absl::InvalidArgumentError(field + ".module is missing");
  if (c.module.ends_with(".py") && access(c.module.c_str(), R_OK) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s.module=%s is no file that can be read", field, c.module));
  }
  if (c.processes < 1) return Bad(field, "processes", c.processes);
  if (c.max_waiting < 1) return Bad(field, "max_waiting", c.max_waiting);
  if (c.start_timeout <= absl::ZeroDuration()) {
    return Bad(field, "start_timeout", absl::ToInt64Seconds(c.start_timeout));
  }
  if (c.call_timeout <= absl::ZeroDuration()) {
    return Bad(field, "call_timeout", absl::ToInt64Seconds(c.call_timeout));
  }
  const std::string python = PythonOf(c);
  if (python.find('/') == python.npos) {
    return absl::InvalidArgumentError(absl::StrFormat("%s.python=%s is no path", field, python));
  }
  if (access(python.c_str(), X_OK) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s.python: %s is not there%s", field, python,
                      c.python.empty() ? "; `deploy/setup.sh --python-envs` makes it" : ""));
}

std::string DefaultPython() {
  const std::string cache = Environment("XDG_CACHE_HOME", Environment("HOME", "") + "/.cache");
  return cache + "/palimpsest/envs-" PALIMPSEST_PYTHON_ENVS "/bin/python";
}

WorkerConfig ConfigOf(const WorkerSection& c) {
  const auto replace = nlohmann::json::error_handler_t::replace;
  WorkerConfig config;
  config.command.name = c.name;
  config.command.argv = {PythonOf(c), "-m", "palimpsest_env", c.module,
                         nlohmann::json(c.options).dump(-1, ' ', false, replace)};
  config.command.environment = EnvironmentForPython();
  config.command.memory_bytes = c.memory_bytes;
  config.processes = c.processes;
  config.max_waiting = c.max_waiting;
  config.start_timeout = c.start_timeout;
  config.call_timeout = c.call_timeout;
  return config;
}

}  // namespace palimpsest::env
