#pragma once

#include <string>
#include <string_view>

#include "common/config/binder.h"
#include "common/config/run_sections.h"
#include "common/rpc/config.h"
#include "services/env/core/registry.h"

namespace palimpsest::env {

// `env:` of the YAML.
struct EnvSection {
  std::string listen = "127.0.0.1:0";   // host:port of the RPCs; port 0 takes a free one
  std::string metrics = "127.0.0.1:0";  // host:port of /metrics and /healthz
  int rank = 0;                         // which of the run's environment daemons this is
  bool insecure = false;                // allows listening beyond loopback, in clear text
  EnvironmentOptions tasks;
  bool operator==(const EnvSection&) const = default;
};
void Bind(Binder& b, EnvSection& c);

// What the daemon reads of the YAML: `run:` and `env:`.
struct EnvDaemonConfig {
  RunSection run;
  EnvSection env;
  bool operator==(const EnvDaemonConfig&) const = default;
};
void Bind(Binder& b, EnvDaemonConfig& c);
absl::Status Validate(const EnvDaemonConfig& c);

// `env.listen` and `env.insecure` as the server wants them.
absl::StatusOr<RpcServerConfig> ListenConfig(const EnvSection& c);

}  // namespace palimpsest::env
