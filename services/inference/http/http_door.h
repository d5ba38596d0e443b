#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "services/inference/server/daemon.h"

namespace palimpsest::inference {

// The OpenAI-compatible door before a replica, as `inference.http` asks for it; null when it asks
// for none.
absl::StatusOr<std::unique_ptr<Door>> OpenHttpDoor(const InferenceDaemonConfig& config,
                                                   const DoorParts& parts);

// `router.http:`, the same door before a fleet.
struct FleetHttpSection {
  HttpSection http;         // its keys stand beside the others
  std::string tokenizer;    // model folder that names tokens; empty: they are known by their ids
  int reader_queue = 4096;  // streamed messages that a slow reader may be behind
};
void Bind(Binder& b, FleetHttpSection& c);
// `serve` and `tls`: of the router.
absl::Status Validate(const FleetHttpSection& c, const ListenSection& serve, const TlsSection& tls);

struct FleetDoorParts {
  std::string run;                         // its name
  const ListenSection& serve;              // of the router
  const TlsSection& tls;                   // likewise
  std::shared_ptr<grpc::Channel> channel;  // to the router
  Clock& clock;                            // outlives the door
  std::shared_ptr<Https> https;            // null: clear text
};
absl::StatusOr<std::unique_ptr<Door>> OpenFleetDoor(const FleetHttpSection& config,
                                                    const FleetDoorParts& parts);

}  // namespace palimpsest::inference
