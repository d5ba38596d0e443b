// What one who can reach the port of metrics may do to the daemon: in small, with the limits that
// daemons have.
#include <gmock/gmock.h>

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "common/telemetry/metrics_server.h"
#include "common/tls/https.h"
#include "tests/unit/common/http/raw_client.h"
#include "tests/unit/common/tls/pki.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

constexpr int kConnections = 16;

// The parameter: under TLS?
class HostileClientsTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    std::shared_ptr<Https> https;
    if (GetParam()) {
      pki_.WriteTo(scratch_.path());
      https = Https::Open({.folder = scratch_.path()}, Role::kTrainer, SystemClock()).value();
    }
    server_ = MetricsServer::Start(
                  "127.0.0.1", 0, metrics_, [] { return absl::OkStatus(); }, std::move(https))
                  .value();
  }
  std::unique_ptr<RawClient> Come(const std::string& role) {
    auto client = std::make_unique<RawClient>(server_->port());
    if (GetParam()) client->Secure(scratch_ / (role + ".pem"));
    return client;
  }
  void ExpectMetricsWithin(absl::Duration most) {
    const absl::Time before = absl::Now();
    const auto client = Come("metrics");
    client->Send("GET /metrics HTTP/1.1\r\n\r\n");
    EXPECT_THAT(client->ReadAll(), HasSubstr("palimpsest_build_info{"));
    EXPECT_LT(absl::Now() - before, most);
  }

  Pki pki_;
  weights::ScratchFolder scratch_;
  Metrics metrics_{"trainer", "1", SystemClock()};
  std::unique_ptr<MetricsServer> server_;
};

TEST_P(HostileClientsTest, AFloodOfHeadersIsRefusedEarly) {
  for (const char* role : {"metrics", "env"}) {
    const auto client = Come(role);
    const int64_t before = ResidentBytes();
    client->Send("GET /metrics HTTP/1.1\r\n");
    const std::string header = "a: " + std::string(8000, 'x') + "\r\n";
    size_t sent = 0;
    while (sent < (64 << 20) && client->Send(header)) sent += header.size();
    EXPECT_LT(sent, 64 << 20) << role;
    EXPECT_LT(ResidentBytes() - before, 32 << 20) << role;
  }
  ExpectMetricsWithin(absl::Seconds(2));
}

TEST_P(HostileClientsTest, ThoseWhoDripKeepNobodyOut) {
  std::atomic<bool> enough = false;
  std::deque<RawClient> clients;
  for (int i = 0; i < 2 * kConnections; ++i) clients.emplace_back(server_->port());
  std::thread drippers([&] {
    const std::string bytes = GetParam() ? std::string("\x16\x03\x01\x00\xc8\x01", 6) : "GET /m";
    for (size_t i = 0; !enough; ++i) {
      for (RawClient& client : clients) client.Send(bytes.substr(i % bytes.size(), 1));
      absl::SleepFor(absl::Milliseconds(50));
    }
  });
  for (int i = 0; i < 10; ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    ExpectMetricsWithin(absl::Seconds(2));
  }
  enough = true;
  drippers.join();
}

TEST_P(HostileClientsTest, SilentConnectionsHoldFewDescriptorsAndKeepNobodyOut) {
  const int before = OpenDescriptors();
  std::deque<RawClient> silent;
  for (int i = 0; i < 100; ++i) silent.emplace_back(server_->port());
  // Until then each newcomer holds one more for a moment: accepted, the loser not yet closed.
  for (int i = 0; i < 100 - kConnections; ++i) EXPECT_TRUE(silent[i].Ended(2000)) << i;
  const absl::Time until = absl::Now() + absl::Seconds(2);
  while (OpenDescriptors() > before + 100 + kConnections && absl::Now() < until)
    absl::SleepFor(absl::Milliseconds(10));
  EXPECT_LE(OpenDescriptors(), before + 100 + kConnections);
  ExpectMetricsWithin(absl::Seconds(2));
}

INSTANTIATE_TEST_SUITE_P(InClearTextAndUnderTls, HostileClientsTest, ::testing::Bool());

}  // namespace
}  // namespace palimpsest
