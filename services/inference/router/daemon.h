#pragma once

#include <grpcpp/channel.h>

#include <functional>
#include <memory>

#include "common/base/status.h"
#include "common/rpc/stop_signal.h"
#include "services/inference/core/door.h"
#include "services/inference/router/config.h"

namespace palimpsest {
class Https;
}

namespace palimpsest::inference {

// Opens another way in, that calls the router by `channel`; null: the config has none. `https` is
// null in clear text.
using RouterDoorMaker = std::function<absl::StatusOr<std::unique_ptr<Door>>(
    std::shared_ptr<grpc::Channel> channel, std::shared_ptr<Https> https)>;

// The router from start to end: listens and writes its address at once, is ready when a replica is,
// lets its streams end when `stop` is raised.
absl::Status RunRouter(const RouterDaemonConfig& config, const RouterDoorMaker& make_door,
                       StopSignal& stop);

}  // namespace palimpsest::inference
