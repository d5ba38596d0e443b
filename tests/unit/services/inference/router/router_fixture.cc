#include "tests/unit/services/inference/router/router_fixture.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace palimpsest::inference {
namespace {

InferenceServer::Options OptionsOf(int rank, ScriptedEngine& engine) {
  InferenceServer::Options options{.reader_queue = 1000};
  options.info.set_revision(v1::CONTRACT_REVISION_CURRENT);
  options.info.set_role("inference");
  options.info.set_rank(rank);
  options.apply_weights = [&engine](const Announcement& a, WeightsMode mode, absl::Time) {
    return engine.UpdateWeights("folder", a.version, mode);
  };
  options.drained = [] {};
  return options;
}

bool WaitFor(const std::function<bool()>& is_true) {
  for (int i = 0; i < 1000; ++i) {
    if (is_true()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

}  // namespace

RouterFront::RouterFront(std::function<ReplicaAddresses()> addresses)
    : fleet_({.addresses = std::move(addresses),
              .poll = absl::Milliseconds(20),
              .patience = absl::Seconds(5),
              .load_factor = 1.25,
              .channel = {.max_reconnect_backoff = absl::Milliseconds(100)},
              .looked = [](bool) {}},
             telemetry_) {
  RouterService::Options options{.longest_call = absl::Minutes(1),
                                 .drained = [this] { ++drained_; }};
  options.info.set_revision(v1::CONTRACT_REVISION_CURRENT);
  options.info.set_role("router");
  service_ = std::make_unique<RouterService>(options, fleet_, telemetry_);
  auto server = RpcServer::Start({.drain = absl::Milliseconds(200)}, {service_.get()}, metrics_,
                                 SystemClock());
  EXPECT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

bool RouterFront::WaitForReady(int replicas) const {
  return WaitFor([&] {
    const auto all = fleet_.All();
    return replicas == std::count_if(all.begin(), all.end(), [](const Fleet::Known& known) {
             return known.standing == Standing::kReady;
           });
  });
}

ReplicaNode::ReplicaNode(int rank, std::shared_ptr<ScriptedEngine> scripted)
    : engine(std::move(scripted)),
      service_(OptionsOf(rank, *engine), serving, telemetry_, SystemClock()) {
  const std::vector<std::string> special{"<|end|>"};
  serving.Install(engine, *Tokenizer::FromJson(*ByteTokenizerJson(special)),
                  std::make_shared<const FolderChat>(FolderChat::Read(folder_.path())));
  auto server =
      RpcServer::Start({.drain = absl::ZeroDuration()}, {&service_}, metrics_, SystemClock());
  EXPECT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

ReplicaNode::~ReplicaNode() {
  engine->Drain(absl::ZeroDuration());
  Kill();
}

void ReplicaNode::Kill() { server_->Shutdown(); }

void RouterTest::StartFleet(const std::vector<std::shared_ptr<ScriptedEngine>>& engines) {
  for (const auto& scripted : engines) {
    const int rank = static_cast<int>(nodes_.size());
    nodes_.push_back(std::make_unique<ReplicaNode>(rank, scripted));
    addresses_["inference-" + std::to_string(rank)] = nodes_.back()->address();
  }
  StartRouter(static_cast<int>(engines.size()));
}

void RouterTest::StartRouter(int ready) {
  router_ = std::make_unique<RouterFront>(addresses_);
  ASSERT_TRUE(router_->WaitForReady(ready));
  stub_ = v1::InferenceService::NewStub(*MakeChannel(router_->address(), {}));
}

void RouterTest::TearDown() {
  ServerTest::TearDown();
  for (const auto& node : nodes_) node->engine->Drain(absl::ZeroDuration());
  router_.reset();
  nodes_.clear();
}

int RouterTest::RankOf(const std::string& request_id) {
  int found = -1;
  WaitFor([&] {
    for (size_t rank = 0; rank < nodes_.size(); ++rank) {
      for (size_t i = 0; i < nodes_[rank]->engine->submissions(); ++i) {
        if (nodes_[rank]->engine->submission(i).request_id == request_id) {
          found = static_cast<int>(rank);
        }
      }
    }
    return found >= 0;
  });
  return found;
}

v1::GenerateRequest RouterTest::RequestFor(int rank, const std::string& id) {
  std::vector<ReplicaView> views;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    views.push_back({.name = "inference-" + std::to_string(i), .standing = Standing::kReady});
  }
  v1::GenerateRequest request = Request(id);
  for (int i = 0;; ++i) {
    const std::string prompt = absl::StrFormat("prompt %05d", i);  // 12 tokens
    const Wish wish{.key = AffinityKey(prompt), .samples = 1};
    if (OrderReplicas(views, wish, 1.25)[0] != static_cast<size_t>(rank)) continue;
    request.set_prompt_text(prompt);
    return request;
  }
}

}  // namespace palimpsest::inference
