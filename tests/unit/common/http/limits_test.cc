#include "common/http/limits.h"

#include <gmock/gmock.h>

#include <deque>
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/http/listener.h"
#include "common/tls/https.h"
#include "tests/unit/common/http/raw_client.h"
#include "tests/unit/common/tls/pki.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kGet[] = "GET /x HTTP/1.1\r\n\r\n";
constexpr char kHello[] = "\x16\x03\x01\x00\xc8\x01";  // how a handshake begins

// The parameter: under TLS?
class LimitsTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!GetParam()) return;
    pki_.WriteTo(scratch_.path());
    https_ = Https::Open({.folder = scratch_.path()}, Role::kTrainer, SystemClock()).value();
  }
  void Start(HttpHandler handler = [](const HttpRequest&) { return HttpAnswer{.body = "here"}; }) {
    auto listener = HttpListener::Start(
        {.host = "127.0.0.1",
         .limits = limits_,
         .refusal = [](int, const std::string& why) { return HttpAnswer{.body = why}; },
         .https = https_,
         .methods = {"/metrics", "/page"}},
        {{.pattern = "/x", .handler = std::move(handler)}});
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  // One who has shown who it is, where that is asked.
  std::unique_ptr<RawClient> Come(const std::string& role = "metrics") {
    auto client = std::make_unique<RawClient>(listener_->port());
    if (GetParam()) client->Secure(scratch_ / (role + ".pem"));
    return client;
  }
  std::string Get() {
    const auto client = Come();
    client->Send(kGet);
    return client->ReadAll();
  }
  // Descriptors: no more than `before` are open soon.
  void ExpectAllComeBack(int before, absl::Duration within) {
    const absl::Time until = absl::Now() + within;
    while (OpenDescriptors() > before && absl::Now() < until)
      absl::SleepFor(absl::Milliseconds(10));
    EXPECT_LE(OpenDescriptors(), before);
  }

  Pki pki_;
  weights::ScratchFolder scratch_;
  std::shared_ptr<Https> https_;  // null: clear text
  HttpLimits limits_{.connections = 4,
                     .max_body = 1000,
                     .max_bytes = 64 * 1024,
                     .send_silence = absl::Seconds(10),
                     .send_whole = absl::Seconds(10),
                     .take_silence = absl::Seconds(10)};
  std::unique_ptr<HttpListener> listener_;
};

TEST_P(LimitsTest, HeadersWithoutEndAreNotRead) {
  Start();
  const auto client = Come();
  const int64_t before = ResidentBytes();
  ASSERT_TRUE(client->Send("GET /x HTTP/1.1\r\n"));
  const std::string header = "a: " + std::string(8000, 'x') + "\r\n";
  size_t sent = 0;
  while (sent < (64 << 20) && client->Send(header)) sent += header.size();
  EXPECT_LT(sent, 64 << 20) << "all of it was taken";
  EXPECT_LT(ResidentBytes() - before, 32 << 20);
  EXPECT_THAT(Get(), HasSubstr("here"));
}

TEST_P(LimitsTest, APathWithoutEndIsRefused) {
  Start();
  const auto client = Come();
  client->Send("GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n");
  EXPECT_THAT(client->ReadAll(), StartsWith("HTTP/1.1 414 URI Too Long\r\n"));
}

TEST_P(LimitsTest, ARequestThatComesTooSlowlyIsEnded) {
  limits_.send_whole = absl::Milliseconds(500);
  Start();
  const int before = OpenDescriptors();
  const std::string bytes = GetParam() ? std::string(kHello, 6) : "GET /x";
  RawClient dripper(listener_->port());
  const absl::Time begun = absl::Now();
  for (size_t i = 0; !dripper.Ended(100) && i < 100; ++i) dripper.Send(bytes.substr(i % 6, 1));
  EXPECT_LT(absl::Now() - begun, absl::Seconds(3));
  dripper.Close();
  ExpectAllComeBack(before, absl::Seconds(2));
}

TEST_P(LimitsTest, SilentConnectionsBeyondTheBoundAreClosedAndTheOthersAfterTheirTime) {
  limits_.send_silence = absl::Milliseconds(800);
  Start();
  const int before = OpenDescriptors();
  std::deque<RawClient> silent;
  for (int i = 0; i < 40; ++i) silent.emplace_back(listener_->port());
  EXPECT_TRUE(silent.back().Ended(500)) << "it was accepted, and closed at once";
  ExpectAllComeBack(before + 40 + limits_.connections, absl::Milliseconds(700));
  ExpectAllComeBack(before + 40, absl::Seconds(3));
  silent.clear();
  EXPECT_THAT(Get(), HasSubstr("here"));
}

TEST_P(LimitsTest, WhoDawdlesLosesItsPlaceToANewcomer) {
  limits_.send_in_peace = absl::Milliseconds(300);
  Start();
  std::deque<RawClient> dawdlers;
  for (int i = 0; i < limits_.connections; ++i) dawdlers.emplace_back(listener_->port());
  RawClient early(listener_->port());
  EXPECT_TRUE(early.Ended(200)) << "they are in their peace";
  absl::SleepFor(absl::Milliseconds(350));
  EXPECT_THAT(Get(), HasSubstr("here"));
  EXPECT_TRUE(dawdlers.front().Ended(1000));
  EXPECT_FALSE(dawdlers.back().Ended(0));
}

TEST_P(LimitsTest, WhoIsBeingAnsweredKeepsItsPlace) {
  limits_.connections = 1;
  limits_.send_in_peace = absl::ZeroDuration();
  absl::Notification begun, go_on;
  Start([&](const HttpRequest&) {
    begun.Notify();
    go_on.WaitForNotificationWithTimeout(absl::Seconds(10));
    return HttpAnswer{.body = "late"};
  });
  const auto first = Come();
  first->Send(kGet);
  ASSERT_TRUE(begun.WaitForNotificationWithTimeout(absl::Seconds(10)));
  RawClient second(listener_->port());
  EXPECT_TRUE(second.Ended(1000));
  go_on.Notify();
  EXPECT_THAT(first->ReadAll(), HasSubstr("late"));
}

TEST_P(LimitsTest, AnAnswerThatIsTakenTooSlowlyIsEnded) {
  limits_.take_whole = absl::Milliseconds(500);
  absl::Notification begun;
  Start([&](const HttpRequest&) {
    begun.Notify();
    return HttpAnswer{.body = std::string(32 << 20, 'x')};
  });
  const int before = OpenDescriptors();
  const auto client = Come();
  client->Send(kGet);
  ASSERT_TRUE(begun.WaitForNotificationWithTimeout(absl::Seconds(10)));
  ExpectAllComeBack(before + 1, absl::Seconds(3));
}

INSTANTIATE_TEST_SUITE_P(InClearTextAndUnderTls, LimitsTest, ::testing::Bool());

using RolesTest = LimitsTest;

TEST_P(RolesTest, WhoMayCallNothingIsRefusedBeforeAnythingIsRead) {
  Start();
  const auto stranger = Come("env");
  const std::string told = stranger->ReadAll();  // it has sent nothing
  EXPECT_THAT(told, StartsWith("HTTP/1.1 403 Forbidden\r\n"));
  EXPECT_THAT(told, HasSubstr("the role env may not call /metrics"));
  const auto known = Come("metrics");
  EXPECT_FALSE(known->Ended(200));
}

INSTANTIATE_TEST_SUITE_P(UnderTls, RolesTest, ::testing::Values(true));

}  // namespace
}  // namespace palimpsest
