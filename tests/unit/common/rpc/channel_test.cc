#include "common/rpc/channel.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "common/rpc/retry.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "tests/unit/common/rpc/raw_service.h"

namespace palimpsest {
namespace {

class ChannelTest : public ::testing::Test {
 protected:
  RawService service_;
  Metrics metrics_{"test", "0", SystemClock()};
  std::unique_ptr<RpcServer> server_ =
      RpcServer::Start({}, {&service_}, metrics_, SystemClock()).value();
};

TEST_F(ChannelTest, ACallWithoutADeadlineIsCancelledAndTold) {
  std::string line;
  ScopedLogSink sink([&](const std::string& text) { line = text; });
  const auto channel = MakeChannel(server_->address(), {}).value();
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Hang", "", absl::InfiniteDuration()).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_NE(line.find("/test.Raw/Hang"), std::string::npos) << line;
}

TEST_F(ChannelTest, ContextsCarryTheDeadlineOfTheConfig) {
  ChannelConfig config;
  config.call_deadline = absl::Seconds(100);
  const absl::Time deadline = absl::FromChrono(MakeContext(config)->deadline());
  EXPECT_LT(absl::AbsDuration(deadline - absl::Now() - absl::Seconds(100)), absl::Seconds(20));
}

TEST_F(ChannelTest, ACallMayTakeAShorterDeadline) {
  const auto channel = MakeChannel(server_->address(), {}).value();
  const absl::Time before = absl::Now();
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Hang", "", absl::Milliseconds(100)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
}

TEST_F(ChannelTest, CodeAndMessageOfAnErrorArrive) {
  const auto channel = MakeChannel(server_->address(), {}).value();
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Fail", "").status(),
            absl::FailedPreconditionError("not yet"));
}

TEST_F(ChannelTest, AnIdleConnectionSurvivesKeepalivePings) {
  ChannelConfig config;
  config.keepalive = absl::Seconds(1);
  const auto channel = MakeChannel(server_->address(), config).value();
  // Several pings pass while this call waits; a server that counts them as abuse would end it.
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Hang", "", absl::Milliseconds(4500)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ChannelTest, RetriesReachAServerThatComesBack) {
  RpcServerConfig config;
  config.port = server_->port();
  const std::string address = server_->address();
  server_.reset();
  ChannelConfig channel_config;
  channel_config.max_reconnect_backoff = absl::Milliseconds(200);
  const auto channel = MakeChannel(address, channel_config).value();
  EXPECT_EQ(CallRaw(channel, "/test.Raw/Echo", "").status().code(), absl::StatusCode::kUnavailable);
  std::thread revival([&] {
    absl::SleepFor(absl::Milliseconds(400));
    server_ = RpcServer::Start(config, {&service_}, metrics_, SystemClock()).value();
  });
  RetryPolicy policy;
  policy.max_attempts = 30;
  int attempts = 0;
  const absl::StatusOr<std::string> answer = CallWithRetry(SystemClock(), policy, 1, [&] {
    ++attempts;
    return CallRaw(channel, "/test.Raw/Echo", "again");
  });
  revival.join();
  EXPECT_EQ(answer.value(), "again");
  EXPECT_GT(attempts, 1);
}

TEST_F(ChannelTest, RefusesWrongConfigs) {
  EXPECT_FALSE(MakeChannel("", {}).ok());
  ChannelConfig config;
  config.keepalive = absl::Milliseconds(10);
  EXPECT_FALSE(MakeChannel(server_->address(), config).ok());
}

}  // namespace
}  // namespace palimpsest
