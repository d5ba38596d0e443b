#include "common/http/listener.h"

#include <gmock/gmock.h>
#include <httplib.h>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/tls/https.h"
#include "tests/unit/common/http/raw_client.h"
#include "tests/unit/common/tls/pki.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

class ListenerTest : public ::testing::Test {
 protected:
  void Start(std::function<HttpAnswer(const HttpRequest&)> post, int connections = 8) {
    limits_.connections = connections;
    auto listener = HttpListener::Start(Options(), {{true, "/post", std::move(post)}});
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  HttpListener::Options Options(int port = 0) const {
    return {.host = "127.0.0.1",
            .port = port,
            .limits = limits_,
            .refusal =
                [](int status, const std::string&) {
                  return HttpAnswer{.body = "error " + std::to_string(status)};
                },
            .https = https_,
            .methods = {"/v1"}};
  }
  httplib::Client Client() { return httplib::Client("127.0.0.1", listener_->port()); }

  HttpLimits limits_{.max_body = 1000,
                     .max_bytes = 16 * 1024,
                     .send_silence = absl::Seconds(5),
                     .send_whole = absl::Seconds(5),
                     .take_silence = absl::Seconds(5)};
  std::shared_ptr<Https> https_;  // null: clear text
  std::unique_ptr<HttpListener> listener_;
};

HttpAnswer Echo(const HttpRequest& request) { return {.body = "you said " + request.body}; }

TEST_F(ListenerTest, AnswersAndSaysWhatItDoesNotKnow) {
  Start(Echo);
  const auto said = Client().Post("/post", "hi", "application/json");
  ASSERT_TRUE(said);
  EXPECT_EQ(said->status, 200);
  EXPECT_EQ(said->body, "you said hi");
  const auto unknown = Client().Get("/other");
  EXPECT_EQ(unknown->status, 404);
  EXPECT_EQ(unknown->body, "error 404");
}

TEST_F(ListenerTest, StreamsPieceByPiece) {
  int count = 0;
  Start([&](const HttpRequest&) {
    return HttpAnswer{.type = "text/event-stream",
                      .next_piece = [&]() -> std::optional<std::string> {
                        if (++count > 5) return std::nullopt;
                        return count % 2 == 0 ? "" : "piece " + std::to_string(count) + ";";
                      }};
  });
  const auto said =
      Client().Post("/post", httplib::Headers{{"Accept-Encoding", "gzip"}}, "", "text/plain");
  ASSERT_TRUE(said);
  EXPECT_EQ(said->body, "piece 1;piece 3;piece 5;");
  EXPECT_FALSE(said->has_header("Content-Encoding"));
}

TEST_F(ListenerTest, ABodyThatIsTooLargeIsRefusedHoweverItIsSent) {
  Start(Echo);
  EXPECT_EQ(Client().Post("/post", std::string(1000, 'x'), "text/plain")->status, 200);
  EXPECT_EQ(Client().Post("/post", std::string(1001, 'x'), "text/plain")->status, 413);
  RawClient chunked(listener_->port());
  chunked.Send("POST /post HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n" +
               std::string(0x40000, 'x'));
  EXPECT_THAT(chunked.ReadAll(), ::testing::Not(HasSubstr("200 OK")));
}

TEST_F(ListenerTest, AHandlerSeesThatItsClientHasGone) {
  absl::Notification begun, gone;
  Start([&](const HttpRequest& request) {
    EXPECT_TRUE(request.alive());
    begun.Notify();
    for (int i = 0; i < 1000 && request.alive(); ++i) absl::SleepFor(absl::Milliseconds(10));
    if (!request.alive()) gone.Notify();
    return HttpAnswer();
  });
  RawClient client(listener_->port());
  client.Send("POST /post HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
  ASSERT_TRUE(begun.WaitForNotificationWithTimeout(absl::Seconds(10)));
  client.Close();
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(absl::Seconds(5)));
}

TEST_F(ListenerTest, AStreamEndsWhenItsClientHasGone) {
  absl::Notification ended;
  struct Held {
    absl::Notification& ended;
    ~Held() { ended.Notify(); }
  };
  Start([&](const HttpRequest&) {
    return HttpAnswer{
        .next_piece = [held = std::make_shared<Held>(ended)]() -> std::optional<std::string> {
          absl::SleepFor(absl::Milliseconds(10));
          return "";  // nothing to write: only asking shows that the client is gone
        }};
  });
  RawClient client(listener_->port());
  client.Send("POST /post HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_FALSE(ended.HasBeenNotified());
  client.Close();
  EXPECT_TRUE(ended.WaitForNotificationWithTimeout(absl::Seconds(5)));
}

TEST_F(ListenerTest, BeyondTheBoundItSaysSoAtOnce) {
  absl::Notification begun, go_on;
  Start(
      [&](const HttpRequest& request) {
        begun.Notify();
        go_on.WaitForNotificationWithTimeout(absl::Seconds(10));
        return Echo(request);
      },
      1);
  std::thread first([&] { EXPECT_EQ(Client().Post("/post", "a", "text/plain")->status, 200); });
  EXPECT_TRUE(begun.WaitForNotificationWithTimeout(absl::Seconds(10)));
  RawClient second(listener_->port());
  const std::string answer = second.ReadAll();
  EXPECT_THAT(answer, HasSubstr("429 Too Many Requests"));
  EXPECT_THAT(answer, HasSubstr("Retry-After: 1"));
  EXPECT_THAT(answer, HasSubstr("error 429"));
  go_on.Notify();
  first.join();
}

TEST_F(ListenerTest, ItsEndDoesNotWaitForClientsThatSayNothing) {
  Start(Echo);
  RawClient silent(listener_->port());
  silent.Send("POST /po");
  absl::SleepFor(absl::Milliseconds(50));
  const absl::Time before = absl::Now();
  listener_.reset();
  EXPECT_LT(absl::Now() - before, absl::Seconds(2));
}

TEST_F(ListenerTest, ATakenPortIsAnError) {
  Start(Echo);
  EXPECT_TRUE(absl::IsUnavailable(HttpListener::Start(Options(listener_->port()), {}).status()));
}

class HttpsListenerTest : public ListenerTest {
 protected:
  void SetUp() override {
    pki_.WriteTo(scratch_.path());
    https_ = Https::Open({.folder = scratch_.path()}, Role::kInference, SystemClock()).value();
  }
  std::unique_ptr<httplib::SSLClient> As(const std::string& role) {
    const std::string own = scratch_ / (role + ".pem");
    auto client = std::make_unique<httplib::SSLClient>("127.0.0.1", listener_->port(), own, own);
    client->set_ca_cert_path((scratch_ / "ca.pem").c_str());
    client->enable_server_certificate_verification(true);
    return client;
  }

  Pki pki_;
  weights::ScratchFolder scratch_;
};

TEST_F(HttpsListenerTest, ClientsAreAnsweredAndOtherRolesRefused) {
  Start(Echo);
  const std::string large(900, 'x');
  const auto said = As("client")->Post("/post", large, "application/json");
  ASSERT_TRUE(said) << httplib::to_string(said.error());
  EXPECT_EQ(said->status, 200);
  EXPECT_EQ(said->body, "you said " + large);
  EXPECT_EQ(As("operator")->Get("/other")->status, 404);
  for (const char* role : {"env", "metrics", "trainer"}) {
    const auto refused = As(role)->Post("/post", "hi", "application/json");
    ASSERT_TRUE(refused) << role;
    EXPECT_EQ(refused->status, 403) << role;
    EXPECT_EQ(refused->body, "error 403");
  }
}

TEST_F(HttpsListenerTest, WhoShowsNoCertificateGetsNoAnswer) {
  Start(Echo);
  EXPECT_FALSE(Client().Post("/post", "hi", "application/json"));
  httplib::SSLClient nobody("127.0.0.1", listener_->port());
  nobody.enable_server_certificate_verification(false);
  EXPECT_FALSE(nobody.Post("/post", "hi", "application/json"));
}

TEST_F(HttpsListenerTest, StreamsOfManyRecordsComeWhole) {
  const std::string piece(50000, 'p');
  int count = 0;
  Start([&](const HttpRequest&) {
    return HttpAnswer{.type = "text/event-stream",
                      .next_piece = [&]() -> std::optional<std::string> {
                        if (++count > 40) return std::nullopt;
                        return piece;
                      }};
  });
  const auto said = As("client")->Post("/post", "", "text/plain");
  ASSERT_TRUE(said) << httplib::to_string(said.error());
  EXPECT_EQ(said->body.size(), 40 * piece.size());
}

TEST_F(HttpsListenerTest, AHandlerSeesThatItsClientHasGone) {
  absl::Notification begun, gone;
  Start([&](const HttpRequest& request) {
    EXPECT_TRUE(request.alive());
    begun.Notify();
    for (int i = 0; i < 1000 && request.alive(); ++i) absl::SleepFor(absl::Milliseconds(10));
    if (!request.alive()) gone.Notify();
    return HttpAnswer();
  });
  const auto client = As("client");
  std::thread caller([&] { client->Post("/post", "hi", "text/plain"); });
  EXPECT_TRUE(begun.WaitForNotificationWithTimeout(absl::Seconds(10)));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(gone.HasBeenNotified());
  client->stop();
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(absl::Seconds(5)));
  caller.join();
}

TEST_F(HttpsListenerTest, ItsEndDoesNotWaitForAHandshakeThatNeverComes) {
  Start(Echo);
  RawClient silent(listener_->port());
  absl::SleepFor(absl::Milliseconds(50));
  const absl::Time before = absl::Now();
  listener_.reset();
  EXPECT_LT(absl::Now() - before, absl::Seconds(2));
}

}  // namespace
}  // namespace palimpsest
