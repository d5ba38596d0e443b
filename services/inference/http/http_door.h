#pragma once

#include <memory>

#include "services/inference/server/daemon.h"

namespace palimpsest::inference {

// The OpenAI-compatible door, as `inference.http` asks for it; null when it asks for none.
absl::StatusOr<std::unique_ptr<Door>> OpenHttpDoor(const InferenceDaemonConfig& config,
                                                   const DoorParts& parts);

}  // namespace palimpsest::inference
