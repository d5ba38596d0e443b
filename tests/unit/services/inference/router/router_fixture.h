#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "services/inference/router/service.h"
#include "tests/unit/services/inference/server/server_fixture.h"

namespace palimpsest::inference {

using ReplicaAddresses = std::map<std::string, std::string>;

// The router itself, on a loopback port.
class RouterFront {
 public:
  explicit RouterFront(std::function<ReplicaAddresses()> addresses);
  explicit RouterFront(const ReplicaAddresses& addresses)
      : RouterFront([addresses] { return addresses; }) {}
  ~RouterFront() { server_->Shutdown(); }

  const std::string& address() const { return server_->address(); }
  // Within 10 s: that many replicas are ready.
  bool WaitForReady(int replicas) const;
  std::string metrics() { return metrics_.Text(); }
  int drained() const { return drained_; }

 private:
  Metrics metrics_{"router", "test", SystemClock()};
  RouterTelemetry telemetry_{metrics_, SystemClock()};
  Fleet fleet_;
  std::atomic<int> drained_{0};
  std::unique_ptr<RouterService> service_;
  std::unique_ptr<RpcServer> server_;
};

// One replica over a scripted engine.
class ReplicaNode {
 public:
  ReplicaNode(int rank, std::shared_ptr<ScriptedEngine> scripted);
  ~ReplicaNode();

  // Its connections end as those of a process that dies; what runs in the engine is left.
  void Kill();
  std::string address() const { return server_->address(); }

  const std::shared_ptr<ScriptedEngine> engine;
  Serving serving;

 private:
  weights::ScratchFolder folder_;
  Metrics metrics_{"inference", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
  InferenceServer service_;
  std::unique_ptr<RpcServer> server_;
};

// Two replicas, "inference-0" and "inference-1", behind a router; the base's stub speaks to it.
class RouterTest : public ServerTest {
 protected:
  void StartFleet(const std::vector<std::shared_ptr<ScriptedEngine>>& engines);
  void StartFleet() {
    StartFleet({std::make_shared<ScriptedEngine>(), std::make_shared<ScriptedEngine>()});
  }
  void StartRouter(int ready = 2);
  void TearDown() override;

  ScriptedEngine& engine(int rank) { return *nodes_[rank]->engine; }
  // Which replica has got this request, by 10 s from now. -1: none.
  int RankOf(const std::string& request_id);
  // A request that goes to `rank` first, when both are idle.
  v1::GenerateRequest RequestFor(int rank, const std::string& id);

  template <class Method, class Request, class Response>
  grpc::Status Unary(Method method, const Request& request, Response& response) {
    const auto context = Context();
    return (*stub_.*method)(context.get(), request, &response);
  }

  std::vector<std::unique_ptr<ReplicaNode>> nodes_;
  ReplicaAddresses addresses_;
  std::unique_ptr<RouterFront> router_;
};

}  // namespace palimpsest::inference
