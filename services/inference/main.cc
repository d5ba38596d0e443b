#include "common/rpc/daemon.h"
#include "services/inference/engine/engine_factory.h"
#include "services/inference/http/http_door.h"
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

absl::Status Run(const InferenceDaemonConfig& config, StopSignal& stop) {
  return RunDaemon(config, Make, stop, OpenHttpDoor);
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  using palimpsest::inference::InferenceDaemonConfig;
  return palimpsest::DaemonMain<InferenceDaemonConfig>(
      argc, argv, "palimpsest-inference", {"model", "trainer", "orchestrator", "env", "placement"},
      palimpsest::inference::Run);
}
