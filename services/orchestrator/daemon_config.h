#pragma once

#include <string>

#include "common/config/run_sections.h"
#include "common/rpc/config.h"
#include "services/orchestrator/core/config.h"

namespace palimpsest::orchestrator {

// `orchestrator:` of the YAML: where the daemon listens, and the plan of the run.
struct OrchestratorSection {
  RpcServerConfig listen;
  std::string metrics_host = "127.0.0.1";
  int metrics_port = 0;  // 0: any free one
  ChannelConfig channel;
  RunPlan plan;
  bool operator==(const OrchestratorSection&) const = default;
};

struct OrchestratorDaemonConfig {
  RunSection run;
  OrchestratorSection orchestrator;
  bool operator==(const OrchestratorDaemonConfig&) const = default;
};
void Bind(Binder& b, OrchestratorDaemonConfig& c);
absl::Status Validate(const OrchestratorDaemonConfig& c);

}  // namespace palimpsest::orchestrator
