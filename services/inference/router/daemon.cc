#include "services/inference/router/daemon.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/base/random.h"
#include "common/rpc/address.h"
#include "common/rpc/daemon.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/metrics_server.h"
#include "services/inference/router/followed_addresses.h"
#include "services/inference/router/service.h"

namespace palimpsest::inference {
namespace {

constexpr char kRole[] = "router";
constexpr char kHttpRole[] = "router_http";  // of the other address file

v1::ServerInfo InfoOf(const RouterDaemonConfig& config) {
  const absl::Time now = SystemClock().Now();
  v1::ServerInfo info;
  info.set_revision(v1::CONTRACT_REVISION_CURRENT);
  info.set_version(std::string(Version()));
  info.set_role(kRole);
  info.set_run(config.run.name);
  info.set_started_unix_ms(absl::ToUnixMillis(now));
  info.set_instance(absl::StrFormat("%016x", MixSeed({static_cast<uint64_t>(absl::ToUnixNanos(now)),
                                                      static_cast<uint64_t>(getpid())})));
  return info;
}

// All parts of the router, in the order in which they need one another. One thread.
class Router {
 public:
  Router(const RouterDaemonConfig& config, Tls tls, const RouterDoorMaker& make_door,
         StopSignal& stop)
      : config_(config),
        tls_(std::move(tls)),
        make_door_(make_door),
        stop_(stop),
        fleet_(std::make_unique<Fleet>(FleetOptions(), telemetry_)),
        service_({.info = InfoOf(config),
                  .longest_call = config.router.call_deadline,
                  .drained = [this] { stop_.Request(); }},
                 *fleet_, telemetry_) {}
  ~Router() { End(); }

  absl::Status Start();
  absl::Status Serve();

 private:
  Fleet::Options FleetOptions();
  absl::Status OpenDoor();
  // Nothing calls or is called any more afterwards. Harmless when repeated.
  void End();

  const RouterDaemonConfig& config_;
  const Tls tls_;
  const RouterDoorMaker& make_door_;
  StopSignal& stop_;
  Metrics metrics_{kRole, Version(), SystemClock()};
  RouterTelemetry telemetry_{metrics_, SystemClock()};
  absl::Notification listened_;  // server_ will not change any more: it listens, or could not
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<Fleet> fleet_;
  RouterService service_;
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<Door> door_;
};

Fleet::Options Router::FleetOptions() {
  const RouterConfig& c = config_.router;
  return {.addresses = [this]() -> std::map<std::string, std::string> {
            if (config_.router.replicas.empty()) return FollowedAddresses(config_.run.folder);
            std::map<std::string, std::string> listed;
            for (const std::string& place : config_.router.replicas) listed[place] = place;
            return listed;
          },
          // What was named by its address may be of any run.
          .run = c.replicas.empty() ? config_.run.name : "",
          .poll = c.poll,
          .patience = c.patience,
          .load_factor = c.load_factor,
          .channel = {.max_message = c.serve.rpc.max_message,
                      .max_reconnect_backoff = std::max(c.poll, absl::Milliseconds(100))},
          .tls = tls_,
          .looked =
              [this](bool open) {
                listened_.WaitForNotification();
                if (server_ != nullptr) server_->SetServing("", open);
              }};
}

absl::Status Router::Start() {
  Address own;
  const auto listen = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const Listening at, ReadListen(kRole, config_.router.serve, config_.tls));
    ASSIGN_OR_RETURN(metrics_server_,
                     MetricsServer::Start(
                         at.metrics.host, at.metrics.port, metrics_,
                         [this] { return fleet_->Open() ? absl::OkStatus() : fleet_->WhyNone(); },
                         tls_.https()));
    ASSIGN_OR_RETURN(server_, RpcServer::Start(at.rpc, {&service_}, metrics_, SystemClock(), tls_));
    server_->SetServing("", false);
    ASSIGN_OR_RETURN(own, OwnAddress(server_->address(), at.metrics.host, metrics_server_->port()));
    return absl::OkStatus();
  };
  const absl::Status listening = listen();
  listened_.Notify();
  RETURN_IF_ERROR(listening);
  Log(Severity::kInfo, "listening",
      {{"address", server_->address()}, {"metrics_port", metrics_server_->port()}});
  RETURN_IF_ERROR(OpenDoor());
  return WriteAddress(config_.run.folder, kRole, 0, own);
}

absl::Status Router::OpenDoor() {
  ASSIGN_OR_RETURN(door_, make_door_(server_->InProcess(), tls_.https()));
  if (door_ == nullptr) return absl::OkStatus();
  Log(Severity::kInfo, "the HTTP door is open", {{"address", door_->address()}});
  return WriteAddress(config_.run.folder, kHttpRole, 0, {door_->address(), getpid()});
}

absl::Status Router::Serve() {
  stop_.Wait();
  Log(Severity::kInfo, "draining",
      {{"grace", absl::FormatDuration(config_.router.serve.rpc.drain)}});
  End();
  RETURN_IF_ERROR(RemoveAddress(config_.run.folder, kHttpRole, 0, getpid()));
  return RemoveAddress(config_.run.folder, kRole, 0, getpid());
}

void Router::End() {
  service_.StartDraining();
  if (server_ != nullptr) server_->Shutdown();
  door_.reset();  // its calls have ended with the server's
  metrics_server_.reset();
  fleet_.reset();
}

}  // namespace

absl::Status RunRouter(const RouterDaemonConfig& config, const RouterDoorMaker& make_door,
                       StopSignal& stop) {
  SetLogConfig({.role = kRole, .run = config.run.name});
  ASSIGN_OR_RETURN(Tls tls, OfStart(Tls::Open(config.tls, Role::kRouter, SystemClock())));
  Router router(config, std::move(tls), make_door, stop);
  RETURN_IF_ERROR(OfStart(router.Start()));
  return router.Serve();
}

}  // namespace palimpsest::inference
