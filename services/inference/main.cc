#include "common/model/huge_pages.h"
#include "common/rpc/daemon.h"
#include "services/inference/engine/engine_factory.h"
#include "services/inference/http/http_door.h"
#include "services/inference/router/daemon.h"
#include "services/inference/server/daemon.h"

namespace palimpsest::inference {
namespace {

absl::StatusOr<std::unique_ptr<Engine>> Make(const std::string& folder, PolicyVersion version,
                                             const InferenceConfig& config,
                                             EngineObserver observer) {
  return MakeEngine({.model_folder = folder,
                     .version = version,
                     .dtype = config.dtype,
                     .device = config.device,
                     .threads = config.threads,
                     .batch_invariant = config.batch_invariant,
                     .limits = config.limits,
                     .clock = &SystemClock(),
                     .observer = std::move(observer)});
}

// A replica, or the router before the replicas.
struct ProcessConfig {
  InferenceDaemonConfig replica;
  struct Router {
    RouterConfig calls;
    FleetHttpSection http;
  } router;
};
void Bind(Binder& b, ProcessConfig::Router& c) {
  Bind(b, c.calls);
  b.Section("http", c.http, "the OpenAI-compatible door of the fleet");
}
void Bind(Binder& b, ProcessConfig& c) {
  Bind(b, c.replica);
  b.Section("router", c.router, "one address for all replicas");
}
absl::Status Validate(const ProcessConfig& c) {
  if (!c.router.calls.enabled) {
    RETURN_IF_ERROR(Validate(c.replica));
    return CheckDevice(c.replica.inference.device);
  }
  RETURN_IF_ERROR(Validate(c.replica.tls, Role::kRouter, SystemClock().Now()));
  RETURN_IF_ERROR(Validate(c.router.calls, c.replica.tls));
  return Validate(c.router.http, c.router.calls.serve, c.replica.tls);
}

absl::Status Route(const ProcessConfig& config, StopSignal& stop) {
  const RouterDaemonConfig router{config.replica.run, config.router.calls, config.replica.tls};
  const auto make_door = [&](std::shared_ptr<grpc::Channel> channel, std::shared_ptr<Https> https) {
    return OpenFleetDoor(config.router.http, {.run = router.run.name,
                                              .serve = router.router.serve,
                                              .tls = router.tls,
                                              .channel = std::move(channel),
                                              .clock = SystemClock(),
                                              .https = std::move(https)});
  };
  return RunRouter(router, make_door, stop);
}

absl::Status Run(const ProcessConfig& config, StopSignal& stop) {
  if (config.router.calls.enabled) return Route(config, stop);
  return RunDaemon(config.replica, Make, stop, OpenHttpDoor);
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::DaemonMain<palimpsest::inference::ProcessConfig>(
      argc, argv, "palimpsest-inference", {"model", "trainer", "orchestrator", "env", "placement"},
      palimpsest::inference::Run);
}
