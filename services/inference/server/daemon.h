#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/rpc/stop_signal.h"
#include "services/inference/core/door.h"
#include "services/inference/server/config.h"

namespace palimpsest {
class Https;
}

namespace palimpsest::inference {

// Makes the engine from a version's folder; main.cc brings the real one, tests a scripted one.
using EngineMaker = std::function<absl::StatusOr<std::unique_ptr<Engine>>(
    const std::string& folder, PolicyVersion version, const InferenceConfig& config,
    EngineObserver observer)>;

class InferenceServer;
class Serving;
class Telemetry;
struct DoorParts {  // they outlive the door
  InferenceServer& server;
  const Serving& serving;
  Telemetry& telemetry;
  Clock& clock;
  std::shared_ptr<Https> https;  // null: clear text
};
// Null: the config has none.
using DoorMaker = std::function<absl::StatusOr<std::unique_ptr<Door>>(
    const InferenceDaemonConfig& config, const DoorParts& parts)>;

// One inference replica from start to end: listens and writes its address at once, serves when the
// first weights are loaded, drains when `stop` is raised. OK after a stop, the reason otherwise.
absl::Status RunDaemon(const InferenceDaemonConfig& config, const EngineMaker& make_engine,
                       StopSignal& stop, const DoorMaker& make_door = nullptr);

}  // namespace palimpsest::inference
