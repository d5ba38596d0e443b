#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/config/binder.h"
#include "common/config/run_sections.h"
#include "common/rpc/listen.h"
#include "services/env/core/registry.h"
#include "services/env/server/worker_config.h"

namespace palimpsest::env {

// `env:` of the YAML.
struct EnvSection {
  ListenSection serve;  // its keys stand beside the others
  int rank = 0;         // which of the run's environment daemons this is
  EnvironmentOptions tasks;
  std::vector<WorkerSection> workers;
  bool operator==(const EnvSection&) const = default;
};
void Bind(Binder& b, EnvSection& c);

// What the daemon reads of the YAML: `run:`, `tls:` and `env:`.
struct EnvDaemonConfig {
  RunSection run;
  TlsSection tls;
  EnvSection env;
  bool operator==(const EnvDaemonConfig&) const = default;
};
void Bind(Binder& b, EnvDaemonConfig& c);
absl::Status Validate(const EnvDaemonConfig& c);

}  // namespace palimpsest::env
