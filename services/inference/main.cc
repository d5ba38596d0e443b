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
                     .threads = config.threads,
                     .batch_invariant = config.batch_invariant,
                     .limits = config.limits,
                     .clock = &SystemClock(),
                     .observer = std::move(observer)});
}

// A replica, or the router before the replicas.
struct ProcessConfig {
  InferenceDaemonConfig replica;
  RouterConfig router;
};
void Bind(Binder& b, ProcessConfig& c) {
  Bind(b, c.replica);
  b.Section("router", c.router, "one address for all replicas");
}
absl::Status Validate(const ProcessConfig& c) {
  if (!c.router.enabled) return Validate(c.replica);
  RETURN_IF_ERROR(Validate(c.replica.tls, Role::kRouter, SystemClock().Now()));
  return Validate(c.router, c.replica.tls);
}

absl::Status Run(const ProcessConfig& config, StopSignal& stop) {
  if (config.router.enabled)
    return RunRouter({config.replica.run, config.router, config.replica.tls}, stop);
  return RunDaemon(config.replica, Make, stop, OpenHttpDoor);
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  return palimpsest::DaemonMain<palimpsest::inference::ProcessConfig>(
      argc, argv, "palimpsest-inference", {"model", "trainer", "orchestrator", "env", "placement"},
      palimpsest::inference::Run);
}
