#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/config/binder.h"
#include "services/env/core/worker.h"

namespace palimpsest::env {

// An element of `env.workers`: tasks in Python, served by processes of their own.
struct WorkerSection {
  std::string name;  // for messages and metrics
  std::string
      module;  // defines environments(**options): a Python module, or the path of a .py file
  std::map<std::string, std::string> options;
  std::string python;  // path of an interpreter; empty: the one of `deploy/setup.sh --python-envs`
  int processes = WorkerConfig().processes;
  int max_waiting = WorkerConfig().max_waiting;
  absl::Duration start_timeout = WorkerConfig().start_timeout;
  absl::Duration call_timeout = WorkerConfig().call_timeout;
  int64_t memory_bytes = int64_t{4} << 30;  // of address space, per process
  bool operator==(const WorkerSection&) const = default;
};
void Bind(Binder& b, WorkerSection& c);

// INVALID_ARGUMENT names `field` ("env.workers[0]") and key; a missing interpreter, too.
absl::Status Validate(const WorkerSection& c, const std::string& field);

// ${XDG_CACHE_HOME:-~/.cache}/palimpsest/envs-VERSION/bin/python
std::string DefaultPython();

WorkerConfig ConfigOf(const WorkerSection& c);

}  // namespace palimpsest::env
