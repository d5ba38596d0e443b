#pragma once

#include "common/rpc/stop_signal.h"
#include "services/inference/router/config.h"

namespace palimpsest::inference {

// The router from start to end: listens and writes its address at once, is ready when a replica is,
// lets its streams end when `stop` is raised.
absl::Status RunRouter(const RouterDaemonConfig& config, StopSignal& stop);

}  // namespace palimpsest::inference
