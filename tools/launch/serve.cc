#include "tools/launch/serve.h"

#include <grpcpp/grpcpp.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/config/run_sections.h"
#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/rpc/daemon.h"
#include "common/rpc/tls.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tools/launch/outcome.h"
#include "tools/launch/publish_folder.h"
#include "tools/launch/run_folder.h"
#include "tools/launch/shared_cores.h"

namespace palimpsest::tools {
namespace {

constexpr char kName[] = "palimpsest serve";
constexpr int kMostReplicas = 64;
constexpr absl::Duration kLook = absl::Milliseconds(300);

// The version that the daemon at `host_port` serves; nullopt while it serves none.
std::optional<int64_t> ServedVersion(const std::string& host_port, const Tls& tls) {
  const auto channel = MakeChannel(host_port, ChannelConfig{}, tls.Peer(Role::kInference));
  if (!channel.ok()) return std::nullopt;
  v1::InferenceServiceGetServerInfoRequest request;
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  v1::InferenceServiceGetServerInfoResponse response;
  const auto context = MakeContext(ChannelConfig{});
  const auto stub = v1::InferenceService::NewStub(*channel);
  if (!stub->GetServerInfo(context.get(), request, &response).ok()) return std::nullopt;
  if (response.state() != v1::SERVING_STATE_SERVING) return std::nullopt;
  return response.policy_version();
}

// The one that clients speak to.
std::string_view FrontOf(const ServeOptions& options) {
  return options.replicas > 1 ? "router" : "inference";
}

// Prints where the daemon serves, on a thread of its own, until it goes.
class Announcer {
 public:
  Announcer(const ServeOptions& options, const RunSection& run, const Tls& tls)
      : options_(options), run_(run), tls_(tls), thread_([this] { Run(); }) {}
  ~Announcer() {
    over_.Notify();
    thread_.join();
  }

 private:
  void Run() {
    Address announced;
    while (!over_.WaitForNotificationWithTimeout(kLook)) {
      const absl::StatusOr<Address> address = ReadAddress(run_.folder, FrontOf(options_), 0);
      if (!address.ok() || *address == announced) continue;
      const std::optional<int64_t> version = ServedVersion(address->host_port, tls_);
      if (!version) continue;
      announced = *address;
      const nlohmann::json line = {{"server", address->host_port},
                                   {"policy_version", *version},
                                   {"model", options_.model},
                                   {"folder", run_.folder}};
      constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
      std::cout << line.dump(-1, ' ', false, kReplace) << std::endl;
    }
  }

  const ServeOptions& options_;
  const RunSection& run_;
  const Tls tls_;
  absl::Notification over_;
  std::thread thread_;  // last: it uses all of the above
};

// The daemons get their whole configuration by --set. The weights stand in the store before they
// start, so they need not wait for them: what cannot be loaded then ends them with the reason.
absl::StatusOr<std::vector<DaemonSpec>> MakeSpecs(const ServeOptions& options,
                                                  const RunSection& run) {
  std::vector<DaemonSpec> specs;
  const auto add = [&](std::string_view role, int rank, const std::string& set) -> absl::Status {
    std::vector<std::string> sets = {TextSet("run.name", run.name),
                                     TextSet("run.folder", run.folder),
                                     absl::StrFormat("%s.listen=127.0.0.1:%d", role,
                                                     role == FrontOf(options) ? options.port : 0),
                                     "inference.first_version_wait=1s",
                                     TextSet("tls.folder", options.tls),
                                     TextSet("router.http.tokenizer", options.model),
                                     set};
    sets.insert(sets.end(), options.sets.begin(), options.sets.end());
    ASSIGN_OR_RETURN(DaemonSpec spec, MakeSpec(role, rank, run.folder, "/dev/null", sets));
    specs.push_back(std::move(spec));
    return absl::OkStatus();
  };
  for (int rank = 0; rank < options.replicas; ++rank) {
    RETURN_IF_ERROR(add("inference", rank, absl::StrFormat("inference.rank=%d", rank)));
  }
  if (options.replicas > 1) RETURN_IF_ERROR(add("router", 0, "router.enabled=true"));
  return specs;
}

absl::StatusOr<Attempt> Begin(const ServeOptions& options, const RunSection& run) {
  ASSIGN_OR_RETURN(Attempt attempt, BeginAttempt(run.folder));
  RETURN_IF_ERROR(PublishFolder(options.model, run, SystemClock()).status());
  return attempt;
}

}  // namespace

absl::Status CheckServe(const ServeOptions& options) {
  for (const std::string& set : options.sets) {
    if (set.starts_with("inference.")) continue;
    if (options.replicas > 1 && set.starts_with("router.")) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "--set %s is not inference.KEY=VALUE%s", set,
        set.starts_with("router.") ? ", and there is a router only with --replicas above 1" : ""));
  }
  if (options.replicas < 1 || options.replicas > kMostReplicas) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--replicas %d is outside of [1, %d]", options.replicas, kMostReplicas));
  }
  if (options.port >= 0 && options.port <= 65535) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("--port %d is outside of [0, 65535]", options.port));
}

int RunServe(const ServeOptions& options) {
  const RunSection run{.name = "serve", .folder = options.folder};
  absl::StatusOr<std::vector<DaemonSpec>> specs = MakeSpecs(options, run);
  const absl::StatusOr<Tls> tls =
      Tls::Open({.folder = options.tls}, Role::kOperator, SystemClock());
  absl::Status sound = specs.ok() ? tls.status() : specs.status();
  if (specs.ok()) {
    for (const DaemonSpec& spec : *specs) sound.Update(CheckConfigOf(spec));
  }
  if (!sound.ok()) return UsageError(kName, sound);
  ShareCores();
  const absl::StatusOr<Attempt> attempt = Begin(options, run);
  if (!attempt.ok()) {
    UsageError(kName, attempt.status());
    return kExitFailed;
  }
  for (DaemonSpec& spec : *specs) spec.log_file = attempt->LogOf(spec.name);
  const auto say = [](const std::string& message) {
    std::cerr << "serve: " << message << std::endl;
  };
  StopSignal stop;
  RunEnding ending;
  {
    const Announcer announcer(options, run, *tls);
    ending = Supervise(*specs, {}, LocalPlace(), stop, SystemClock(), say,
                       [&] { return attempt->lease->Held(); });
  }
  if (ending.failure.empty()) return kExitOk;  // a signal is how it ends
  say(FailureText(ending));
  std::cout << OutcomeJson(run, attempt->number, ending, nullptr) << std::endl;
  return ending.exit_code;
}

}  // namespace palimpsest::tools
