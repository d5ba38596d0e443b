#include "services/inference/server/daemon.h"

#include <unistd.h>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/base/random.h"
#include "common/rpc/address.h"
#include "common/rpc/daemon.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/metrics_server.h"
#include "services/inference/server/service.h"

namespace palimpsest::inference {
namespace {

constexpr char kRole[] = "inference";
constexpr char kHttpRole[] = "http";                     // of the other address file
constexpr absl::Duration kLoadEvery = absl::Seconds(1);  // gauges

v1::ServerInfo InfoOf(const InferenceDaemonConfig& config) {
  const absl::Time now = SystemClock().Now();
  v1::ServerInfo info;
  info.set_revision(v1::CONTRACT_REVISION_CURRENT);
  info.set_version(std::string(Version()));
  info.set_role(kRole);
  info.set_rank(config.inference.rank);
  info.set_run(config.run.name);
  info.set_started_unix_ms(absl::ToUnixMillis(now));
  info.set_instance(absl::StrFormat("%016x", MixSeed({static_cast<uint64_t>(absl::ToUnixNanos(now)),
                                                      static_cast<uint64_t>(getpid())})));
  return info;
}

// Why the replica ends by itself: its follower gave up, or its engine is lost.
class GivenUp {
 public:
  explicit GivenUp(StopSignal& stop) : stop_(stop) {}
  void Because(const absl::Status& status) {
    {
      const absl::MutexLock lock(&mu_);
      status_ = status;
    }
    stop_.Request();
  }
  absl::Status status() const {
    const absl::MutexLock lock(&mu_);
    return status_;
  }

 private:
  StopSignal& stop_;
  mutable absl::Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

absl::Status ReadyOf(const Serving& serving) {
  const ServingPhase phase = serving.phase();
  if (phase == ServingPhase::kStarting) {
    return absl::UnavailableError("starting: no weights are loaded yet");
  }
  if (phase == ServingPhase::kDraining) return absl::UnavailableError("draining");
  return serving.doubt();
}

// All parts of one replica, in the order in which they need one another. Start, Serve and the end
// are called by one thread.
class Replica {
 public:
  Replica(const InferenceDaemonConfig& config, const EngineMaker& make_engine,
          const DoorMaker& make_door, StopSignal& stop)
      : config_(config),
        make_engine_(make_engine),
        make_door_(make_door),
        stop_(stop),
        given_up_(stop),
        metrics_(kRole, Version(), clock_),
        telemetry_(metrics_),
        service_(ServiceOptions(), serving_, telemetry_, clock_) {}
  ~Replica() { End(absl::ZeroDuration()); }

  absl::Status Start();
  absl::Status Serve();

 private:
  InferenceServer::Options ServiceOptions();
  WeightsFollower::Options FollowerOptions();
  absl::Status OpenDoor();
  void Live(const absl::Status& doubt);
  // Nothing calls or is called any more afterwards. Harmless when repeated.
  void End(absl::Duration grace);

  const InferenceDaemonConfig& config_;
  const EngineMaker& make_engine_;
  const DoorMaker& make_door_;
  StopSignal& stop_;
  Clock& clock_ = SystemClock();
  GivenUp given_up_;
  Tls tls_;
  Metrics metrics_;
  Telemetry telemetry_;
  Serving serving_;
  InferenceServer service_;
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<WeightsFollower> follower_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<Door> door_;
  absl::Notification listened_;  // server_ will not change any more: it listens, or could not
};

InferenceServer::Options Replica::ServiceOptions() {
  const InferenceConfig& c = config_.inference;
  return {.info = InfoOf(config_),
          .max_scores = c.max_scores,
          .reader_queue = c.reader_queue,
          .remember = c.remember,
          .remember_bytes = c.remember_bytes,
          .apply_weights =
              [this](const Announcement& announcement, WeightsMode mode, absl::Time deadline) {
                return follower_->Apply(announcement, mode, deadline);
              },
          .drained = [this] { stop_.Request(); }};
}

WeightsFollower::Options Replica::FollowerOptions() {
  const InferenceConfig& c = config_.inference;
  return {.store = config_.run.StoreFolder(),
          .reader = absl::StrFormat("%s-%d", kRole, c.rank),
          .poll = c.store_poll,
          .lease = c.lease,
          .first_version_wait = c.first_version_wait,
          .mode = c.weights_mode,
          .retry = {.first_backoff = absl::Seconds(1), .max_backoff = absl::Minutes(1)},
          .make_engine =
              [this](const std::string& folder, PolicyVersion version) {
                return make_engine_(folder, version, config_.inference, telemetry_.Observer());
              },
          .canary_limit = c.canary_limit,
          .live = [this](const absl::Status& doubt) { Live(doubt); },
          .gave_up = [this](const absl::Status& status) { given_up_.Because(status); }};
}

void Replica::Live(const absl::Status& doubt) {
  listened_.WaitForNotification();
  serving_.SetDoubt(doubt);
  const bool ready = ReadyOf(serving_).ok();
  telemetry_.SetReady(ready);
  if (server_ != nullptr) server_->SetServing("", ready);
}

absl::Status Replica::OpenDoor() {
  if (!make_door_) return absl::OkStatus();
  ASSIGN_OR_RETURN(door_,
                   make_door_(config_, {service_, serving_, telemetry_, clock_, tls_.https()}));
  if (door_ == nullptr) return absl::OkStatus();
  Log(Severity::kInfo, "the HTTP door is open", {{"address", door_->address()}});
  return WriteAddress(config_.run.folder, kHttpRole, config_.inference.rank,
                      {door_->address(), getpid()});
}

// The follower stands before the server, whose calls need it.
absl::Status Replica::Start() {
  ASSIGN_OR_RETURN(tls_, Tls::Open(config_.tls, Role::kInference, clock_));
  ASSIGN_OR_RETURN(const Listening at, ReadListen(kRole, config_.inference.serve, config_.tls));
  ASSIGN_OR_RETURN(metrics_server_, MetricsServer::Start(
                                        at.metrics.host, at.metrics.port, metrics_,
                                        [this] { return ReadyOf(serving_); }, tls_.https()));
  ASSIGN_OR_RETURN(follower_,
                   WeightsFollower::Start(FollowerOptions(), serving_, telemetry_, clock_));
  auto server = RpcServer::Start(at.rpc, {&service_}, metrics_, clock_, tls_);
  if (server.ok()) {
    server_ = *std::move(server);
    server_->SetServing("", false);
  }
  listened_.Notify();
  RETURN_IF_ERROR(server.status());
  Log(Severity::kInfo, "listening",
      {{"address", server_->address()}, {"metrics_port", metrics_server_->port()}});
  RETURN_IF_ERROR(OpenDoor());
  ASSIGN_OR_RETURN(const Address own,
                   OwnAddress(server_->address(), at.metrics.host, metrics_server_->port()));
  return WriteAddress(config_.run.folder, kRole, config_.inference.rank, own);
}

absl::Status Replica::Serve() {
  while (!stop_.WaitFor(kLoadEvery)) {
    if (const auto engine = serving_.engine()) {
      telemetry_.ReportLoad(engine->load(), engine->limits().kv_pool_bytes);
      if (const absl::Status lost = engine->lost(); !lost.ok()) given_up_.Because(lost);
    }
  }
  Log(Severity::kInfo, "draining",
      {{"grace", absl::FormatDuration(config_.inference.drain_grace)}});
  End(config_.inference.drain_grace);
  RETURN_IF_ERROR(RemoveAddress(config_.run.folder, kHttpRole, config_.inference.rank, getpid()));
  RETURN_IF_ERROR(RemoveAddress(config_.run.folder, kRole, config_.inference.rank, getpid()));
  return OfStart(given_up_.status());
}

void Replica::End(absl::Duration grace) {
  telemetry_.SetReady(false);
  serving_.StartDraining();
  if (server_ != nullptr) server_->SetServing("", false);
  if (const auto engine = serving_.engine()) engine->Drain(grace);
  door_.reset();
  if (server_ != nullptr) server_->Shutdown();
  follower_.reset();
}

}  // namespace

absl::Status RunDaemon(const InferenceDaemonConfig& config, const EngineMaker& make_engine,
                       StopSignal& stop, const DoorMaker& make_door) {
  SetLogConfig({.role = kRole, .run = config.run.name});
  Replica replica(config, make_engine, make_door, stop);
  RETURN_IF_ERROR(OfStart(replica.Start()));
  return replica.Serve();
}

}  // namespace palimpsest::inference
