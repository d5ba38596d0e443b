#include "services/inference/server/daemon.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <thread>

#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/rpc/daemon.h"
#include "common/telemetry/log.h"
#include "common/weights/store.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tests/unit/common/weights/scratch_folder.h"
#include "tests/unit/services/inference/server/scripted_engine.h"

namespace palimpsest::inference {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Engine>> MakeScripted(const std::string&, PolicyVersion version,
                                                     const InferenceConfig&, EngineObserver) {
  return std::make_unique<ScriptedEngine>(version);
}

void PublishFirst(const std::string& store) {
  const auto writer = *weights::StoreWriter::Open(store, {.run = "run"}, SystemClock());
  ASSERT_TRUE(writer
                  ->Publish(0,
                            [](const std::string& folder) {
                              weights::Write(folder + "/config.json", "{}");
                              return absl::OkStatus();
                            })
                  .ok());
}

TEST(InferenceConfigTest, DefaultsAreLegalAndRefusalsNameTheField) {
  InferenceDaemonConfig config;
  EXPECT_TRUE(Validate(config).ok()) << Validate(config);
  const auto refused = [](const std::function<void(InferenceConfig&)>& breaks) {
    InferenceConfig broken;
    breaks(broken);
    return std::string(Validate(broken).message());
  };
  EXPECT_THAT(refused([](auto& c) { c.serve.listen = "127.0.0.1"; }),
              HasSubstr("inference.listen"));
  EXPECT_THAT(refused([](auto& c) { c.serve.metrics = "::1:80"; }), HasSubstr("inference.metrics"));
  for (const char* place : {"0.0.0.0:1", "[::]:1", "node1:1"}) {
    EXPECT_THAT(refused([&](auto& c) { c.serve.listen = place; }), HasSubstr("inference.insecure"));
    EXPECT_THAT(refused([&](auto& c) { c.serve.metrics = place; }),
                HasSubstr("inference.insecure"));
  }
  EXPECT_THAT(refused([](auto& c) { c.dtype = "int8"; }), HasSubstr("inference.dtype=int8"));
  EXPECT_THAT(refused([](auto& c) { c.limits.max_running = 0; }), HasSubstr("max_running=0"));
  EXPECT_THAT(refused([](auto& c) { c.canary_limit = 0; }), HasSubstr("canary_limit=0"));
  EXPECT_THAT(refused([](auto& c) { c.lease = absl::Seconds(2); }), HasSubstr("inference.lease"));
  EXPECT_EQ(refused([](auto& c) { c.serve.listen = "[::1]:7000"; }), "");
}

TEST(InferenceDaemonTest, ListensAtOnceServesWithTheFirstWeightsAndEndsWhenAsked) {
  const ScopedLogSink quiet([](const std::string&) {});
  const weights::ScratchFolder scratch;
  InferenceDaemonConfig config;
  config.run.folder = scratch.path();
  config.inference.store_poll = absl::Milliseconds(10);
  StopSignal stop;
  absl::Status ended;
  std::thread daemon([&] { ended = RunDaemon(config, MakeScripted, stop); });
  const auto address = WaitForAddress(config.run.folder, "inference", 0,
                                      absl::Now() + absl::Seconds(10), SystemClock());
  ASSERT_TRUE(address.ok()) << address.status();
  const auto stub = v1::InferenceService::NewStub(*MakeChannel(address->host_port, {}));
  const auto state = [&] {
    const auto context = MakeContext({});
    v1::InferenceServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::InferenceServiceGetServerInfoResponse response;
    EXPECT_TRUE(stub->GetServerInfo(context.get(), request, &response).ok());
    return response.state();
  };
  EXPECT_EQ(state(), v1::SERVING_STATE_STARTING);
  PublishFirst(config.run.StoreFolder());
  for (int i = 0; i < 1000 && state() != v1::SERVING_STATE_SERVING; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(state(), v1::SERVING_STATE_SERVING);
  stop.Request();
  daemon.join();
  EXPECT_TRUE(ended.ok()) << ended;
  EXPECT_TRUE(absl::IsNotFound(ReadAddress(config.run.folder, "inference", 0).status()));
}

TEST(InferenceDaemonTest, EndsWithTheReasonWhenItsEngineIsLost) {
  const ScopedLogSink quiet([](const std::string&) {});
  const weights::ScratchFolder scratch;
  InferenceDaemonConfig config;
  config.run.folder = scratch.path();
  config.inference.store_poll = absl::Milliseconds(10);
  PublishFirst(config.run.StoreFolder());
  StopSignal stop;
  const absl::Status lost = absl::UnavailableError("the GPU is lost");
  const auto make = [&](const std::string&, PolicyVersion version, const InferenceConfig&,
                        EngineObserver) -> absl::StatusOr<std::unique_ptr<Engine>> {
    auto engine = std::make_unique<ScriptedEngine>(version);
    engine->Lose(lost);
    return engine;
  };
  EXPECT_EQ(RunDaemon(config, make, stop), lost);
}

TEST(InferenceDaemonTest, EndsWithTheReasonWhenNoWeightsCome) {
  const ScopedLogSink quiet([](const std::string&) {});
  const weights::ScratchFolder scratch;
  InferenceDaemonConfig config;
  config.run.folder = scratch.path();
  config.inference.store_poll = absl::Milliseconds(10);
  config.inference.first_version_wait = absl::Milliseconds(20);
  StopSignal stop;
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunDaemon(config, MakeScripted, stop)));
}

}  // namespace
}  // namespace palimpsest::inference
