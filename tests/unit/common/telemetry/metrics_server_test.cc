#include "common/telemetry/metrics_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

class MetricsServerTest : public ::testing::Test {
 protected:
  std::unique_ptr<MetricsServer> Start(int port = 0) {
    absl::StatusOr<std::unique_ptr<MetricsServer>> server = MetricsServer::Start(
        "127.0.0.1", port, metrics_,
        [this] { return ready_ ? absl::OkStatus() : absl::UnavailableError("no weights yet"); });
    EXPECT_TRUE(server.ok()) << server.status();
    return std::move(server).value();
  }

  Metrics metrics_{"trainer", "1", SystemClock()};
  std::atomic<bool> ready_ = true;
};

TEST_F(MetricsServerTest, ServesTheMetricsOnAFreePort) {
  const auto server = Start();
  EXPECT_GT(server->port(), 0);
  httplib::Client client("127.0.0.1", server->port());
  const auto response = client.Get("/metrics");
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 200);
  EXPECT_THAT(response->get_header_value("Content-Type"), HasSubstr("version=0.0.4"));
  EXPECT_THAT(response->body, HasSubstr("palimpsest_build_info{"));
  EXPECT_EQ(client.Get("/other")->status, 404);
}

TEST_F(MetricsServerTest, HealthFollowsTheCallback) {
  const auto server = Start();
  httplib::Client client("127.0.0.1", server->port());
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  ready_ = false;
  const auto response = client.Get("/healthz");
  EXPECT_EQ(response->status, 503);
  EXPECT_EQ(response->body, "no weights yet\n");
}

TEST_F(MetricsServerTest, ATakenPortIsAnError) {
  const auto server = Start();
  const auto second =
      MetricsServer::Start("127.0.0.1", server->port(), metrics_, [] { return absl::OkStatus(); });
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(MetricsServerTest, StopsQuicklyAlsoAfterRequests) {
  const absl::Time before = absl::Now();
  for (int i = 0; i < 5; ++i) {
    const auto server = Start();
    httplib::Client client("127.0.0.1", server->port());
    client.set_keep_alive(true);
    ASSERT_TRUE(client.Get("/metrics"));
  }
  EXPECT_LT(absl::Now() - before, absl::Seconds(3));
}

}  // namespace
}  // namespace palimpsest
