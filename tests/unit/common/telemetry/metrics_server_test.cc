#include "common/telemetry/metrics_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>

#include "common/tls/https.h"
#include "tests/unit/common/tls/pki.h"
#include "tests/unit/common/weights/scratch_folder.h"

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

TEST_F(MetricsServerTest, APageAnswersEveryOtherPathAndTellsBrowsersToTrustNothingElse) {
  const auto server = MetricsServer::Start(
      "127.0.0.1", 0, metrics_, [] { return absl::OkStatus(); }, nullptr,
      [](const HttpRequest& request) -> HttpAnswer {
        if (request.path != "/a b") return {.status = 404, .body = request.path};
        return {.type = "text/html", .body = request.parameters.at("x")};
      });
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("127.0.0.1", (*server)->port());
  const auto response = client.Get("/a%20b?x=1&x=2%26");
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "2&");
  EXPECT_EQ(response->get_header_value("Content-Type"), "text/html");
  EXPECT_EQ(response->get_header_value("X-Content-Type-Options"), "nosniff");
  EXPECT_THAT(response->get_header_value("Content-Security-Policy"),
              HasSubstr("default-src 'none'; script-src 'self';"));
  EXPECT_EQ(client.Get("/other")->status, 404);
  EXPECT_THAT(client.Get("/metrics")->body, HasSubstr("palimpsest_build_info{"));
  EXPECT_EQ(client.Get("/healthz")->body, "ok\n");
}

class HttpsMetricsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    pki_.WriteTo(scratch_.path());
    Start();
  }
  void Start(HttpHandler page = {}) {
    auto https = Https::Open({.folder = scratch_.path()}, Role::kTrainer, clock_);
    ASSERT_TRUE(https.ok()) << https.status();
    server_ = MetricsServer::Start(
                  "127.0.0.1", 0, metrics_, [] { return absl::OkStatus(); }, *std::move(https),
                  std::move(page))
                  .value();
  }
  // Status of a page, or 0 when there is no answer. Who has the file `pem` believes the file `ca`.
  int Get(const std::string& page, const std::string& pem, const std::string& ca = "ca.pem") {
    const std::string own = scratch_ / pem;
    httplib::SSLClient client("127.0.0.1", server_->port(), own, own);
    client.set_ca_cert_path((scratch_ / ca).c_str());
    client.enable_server_certificate_verification(true);
    const auto response = client.Get(page);
    return response ? response->status : 0;
  }

  Pki pki_;
  weights::ScratchFolder scratch_;
  FakeClock clock_{absl::Now()};
  Metrics metrics_{"trainer", "1", SystemClock()};
  std::unique_ptr<MetricsServer> server_;
};

TEST_F(HttpsMetricsTest, OnlyThoseWhoMayLookGetThePages) {
  EXPECT_EQ(Get("/metrics", "metrics.pem"), 200);
  EXPECT_EQ(Get("/healthz", "operator.pem"), 200);
  EXPECT_EQ(Get("/other", "operator.pem"), 403);
  for (const char* role : {"env.pem", "inference.pem", "trainer.pem", "client.pem"}) {
    EXPECT_EQ(Get("/metrics", role), 403) << role;
  }
}

TEST_F(HttpsMetricsTest, APageIsForTheOperatorAlone) {
  Start([](const HttpRequest&) { return HttpAnswer{}; });
  for (const char* path : {"/", "/api/rollouts/x", "/page"}) {
    EXPECT_EQ(Get(path, "operator.pem"), 200) << path;
    for (const char* role : {"metrics.pem", "env.pem", "client.pem", "orchestrator.pem"}) {
      EXPECT_EQ(Get(path, role), 403) << role << path;
    }
  }
  EXPECT_EQ(Get("/metrics", "metrics.pem"), 200);
}

TEST_F(HttpsMetricsTest, WhoShowsNoGoodCertificateGetsNoAnswer) {
  const Pki other("another CA");
  WritePem(scratch_ / "stranger.pem", other.IssueTo("metrics"));
  EXPECT_EQ(Get("/metrics", "stranger.pem"), 0);
  httplib::SSLClient nobody("127.0.0.1", server_->port());
  nobody.enable_server_certificate_verification(false);
  EXPECT_FALSE(nobody.Get("/metrics"));
  httplib::Client clear("127.0.0.1", server_->port());
  EXPECT_FALSE(clear.Get("/metrics"));
}

TEST_F(HttpsMetricsTest, ReplacedFilesAreUsedAfterTheirTimeAndBrokenOnesNever) {
  const Pki fresh("the next CA");
  WritePem(scratch_ / "fresh.pem", fresh.IssueTo("metrics"));
  WritePem(scratch_ / "fresh-ca.pem", fresh.ca());
  WritePem(scratch_ / "old.pem", pki_.IssueTo("metrics"));
  WritePem(scratch_ / "old-ca.pem", pki_.ca());
  fresh.WriteTo(scratch_.path());
  EXPECT_EQ(Get("/metrics", "old.pem", "old-ca.pem"), 200);
  clock_.Advance(absl::Seconds(31));
  EXPECT_EQ(Get("/metrics", "fresh.pem", "fresh-ca.pem"), 200);
  EXPECT_EQ(Get("/metrics", "old.pem", "old-ca.pem"), 0);
  WritePem(scratch_ / "trainer.pem", "not a key");
  clock_.Advance(absl::Seconds(31));
  EXPECT_EQ(Get("/metrics", "fresh.pem", "fresh-ca.pem"), 200);
}

}  // namespace
}  // namespace palimpsest
