#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/retry.h"
#include "tests/unit/common/rpc/raw_service.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

class RpcServerTest : public ::testing::Test {
 protected:
  std::unique_ptr<RpcServer> Start(const RpcServerConfig& config = {}) {
    auto server = RpcServer::Start(config, {&service_}, metrics_, SystemClock());
    EXPECT_TRUE(server.ok()) << server.status();
    return std::move(server).value();
  }
  static std::shared_ptr<grpc::Channel> Connect(const RpcServer& server) {
    return MakeChannel(server.address(), {}).value();
  }
  // Metrics are written just after the client has its answer.
  testing::AssertionResult EventuallySays(const std::string& line) {
    for (int i = 0; i < 500; ++i) {
      if (metrics_.Text().find(line) != std::string::npos) return testing::AssertionSuccess();
      absl::SleepFor(absl::Milliseconds(10));
    }
    return testing::AssertionFailure() << line << " is not in\n" << metrics_.Text();
  }

  RawService service_;
  Metrics metrics_{"test", "0", SystemClock()};
};

TEST_F(RpcServerTest, AnswersOnAFreePortOfLoopback) {
  const auto server = Start();
  EXPECT_GT(server->port(), 0);
  EXPECT_EQ(server->address(), "127.0.0.1:" + std::to_string(server->port()));
  EXPECT_EQ(CallRaw(Connect(*server), "/test.Raw/Echo", "bytes").value(), "bytes");
}

TEST_F(RpcServerTest, ATakenPortIsRefusedRatherThanShared) {
  const auto server = Start();
  RpcServerConfig config;
  config.port = server->port();
  const auto second = RpcServer::Start(config, {&service_}, metrics_, SystemClock());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(RpcServerTest, BeyondLoopbackOnlyWhenToldSo) {
  RpcServerConfig config;
  config.host = "0.0.0.0";
  const auto refused = RpcServer::Start(config, {&service_}, metrics_, SystemClock());
  EXPECT_THAT(refused.status().message(), HasSubstr("insecure: true"));
  config.insecure = true;
  config.advertise = "node7";
  const auto server = Start(config);
  EXPECT_EQ(server->address(), "node7:" + std::to_string(server->port()));
}

TEST_F(RpcServerTest, HealthIsAnsweredPerService) {
  const auto server = Start();
  const auto channel = Connect(*server);
  EXPECT_TRUE(CheckHealth(channel, "").value());
  EXPECT_EQ(CheckHealth(channel, "test.Raw").status().code(), absl::StatusCode::kNotFound);
  server->SetServing("test.Raw", true);
  EXPECT_TRUE(CheckHealth(channel, "test.Raw").value());
  server->SetServing("test.Raw", false);
  EXPECT_FALSE(CheckHealth(channel, "test.Raw").value());
}

TEST_F(RpcServerTest, MessagesUpToTheLimitPassAndLargerOnesDoNot) {
  RpcServerConfig config;
  config.max_message = 8 << 20;
  const auto server = Start(config);
  const auto channel = Connect(*server);
  const std::string large(7 << 20, 'x');  // above gRPC's default of 4 MiB, there and back
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Echo", large).value().size(), large.size());
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Echo", std::string(9 << 20, 'x')).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(RpcServerTest, HeadersUpToTheLimitPassAndLargerOnesDoNot) {
  RpcServerConfig config;
  config.max_metadata = 8 << 10;
  const auto server = Start(config);
  const auto channel = Connect(*server);
  const auto call = [&](size_t bytes) {
    return CallRaw(channel, "/test.Raw/Echo", "", absl::Seconds(10), std::string(bytes, 'x'));
  };
  EXPECT_TRUE(call(6 << 10).ok());
  EXPECT_EQ(call(12 << 10).status().code(), absl::StatusCode::kResourceExhausted);
  // gRPC refuses the call alone or, now and then, closes the connection; clients get another one.
  const auto after = CallWithRetry(SystemClock(), {}, 1, [&] { return call(6 << 10); });
  EXPECT_TRUE(after.ok()) << after.status();
}

TEST_F(RpcServerTest, CallsBeyondTheLimitOfAConnectionWait) {
  RpcServerConfig config;
  config.max_streams = 1;
  const auto server = Start(config);
  const auto channel = Connect(*server);
  ASSERT_TRUE(CallRaw(channel, "/test.Raw/Echo", "").ok());  // the client has read the limit
  ASSERT_TRUE(EventuallySays("palimpsest_rpc_server_in_flight 0\n"));
  std::thread caller(
      [&] { CallRaw(channel, "/test.Raw/Hang", "", absl::Seconds(2)).IgnoreError(); });
  EXPECT_TRUE(EventuallySays("palimpsest_rpc_server_in_flight 1\n"));
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Echo", "", absl::Milliseconds(200)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(CallRaw(Connect(*server), "/test.Raw/Echo", "").ok()) << "another connection";
  caller.join();
  EXPECT_TRUE(CallRaw(channel, "/test.Raw/Echo", "").ok());
}

TEST_F(RpcServerTest, CallsAreCountedByMethodAndCode) {
  const auto server = Start();
  const auto channel = Connect(*server);
  ASSERT_TRUE(CallRaw(channel, "/test.Raw/Echo", "a").ok());
  ASSERT_TRUE(CallRaw(channel, "/test.Raw/Echo", "b").ok());
  ASSERT_FALSE(CallRaw(channel, "/test.Raw/Fail", "").ok());
  ASSERT_FALSE(CallRaw(channel, "/test.Raw/Hang", "", absl::Milliseconds(50)).ok());
  const std::string total = "palimpsest_rpc_server_requests_total";
  EXPECT_TRUE(EventuallySays(total + "{code=\"OK\",method=\"/test.Raw/Echo\"} 2\n"));
  EXPECT_TRUE(
      EventuallySays(total + "{code=\"FAILED_PRECONDITION\",method=\"/test.Raw/Fail\"} 1\n"));
  EXPECT_TRUE(EventuallySays(total + "{code=\"CANCELLED\",method=\"/test.Raw/Hang\"} 1\n"));
  // A daemon's own faults are there before the first of them.
  EXPECT_TRUE(EventuallySays(total + "{code=\"INTERNAL\",method=\"/test.Raw/Echo\"} 0\n"));
  EXPECT_TRUE(EventuallySays(total + "{code=\"DATA_LOSS\",method=\"/test.Raw/Fail\"} 0\n"));
  EXPECT_TRUE(EventuallySays("palimpsest_rpc_server_seconds_count{method=\"/test.Raw/Echo\"} 2\n"));
  EXPECT_TRUE(EventuallySays("palimpsest_rpc_server_in_flight 0\n"));
}

TEST_F(RpcServerTest, CallsInFlightAreSeen) {
  const auto server = Start();
  const auto channel = Connect(*server);
  std::thread caller(
      [&] { CallRaw(channel, "/test.Raw/Hang", "", absl::Milliseconds(500)).IgnoreError(); });
  EXPECT_TRUE(EventuallySays("palimpsest_rpc_server_in_flight 1\n"));
  caller.join();
}

TEST_F(RpcServerTest, ShutdownLetsARunningCallEnd) {
  auto server = Start();
  const auto channel = Connect(*server);
  absl::StatusOr<std::string> answer;
  std::thread caller([&] { answer = CallRaw(channel, "/test.Raw/Slow", "kept"); });
  ASSERT_TRUE(EventuallySays("palimpsest_rpc_server_in_flight 1\n"));
  server->Shutdown();
  caller.join();
  EXPECT_EQ(answer.value(), "kept");
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Echo", "", absl::Seconds(2)).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(RpcServerTest, ShutdownCancelsWhatOutlivesTheDrain) {
  RpcServerConfig config;
  config.drain = absl::Milliseconds(100);
  auto server = Start(config);
  const auto channel = Connect(*server);
  absl::StatusOr<std::string> answer;
  std::thread caller([&] { answer = CallRaw(channel, "/test.Raw/Hang", ""); });
  ASSERT_TRUE(EventuallySays("palimpsest_rpc_server_in_flight 1\n"));
  const absl::Time before = absl::Now();
  server->Shutdown();
  EXPECT_LT(absl::Now() - before, absl::Seconds(3));
  caller.join();
  EXPECT_FALSE(answer.ok());
}

}  // namespace
}  // namespace palimpsest
