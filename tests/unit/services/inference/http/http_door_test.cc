#include "services/inference/http/http_door.h"

#include <gmock/gmock.h>
#include <httplib.h>

#include "services/inference/server/service.h"
#include "tests/unit/services/inference/server/scripted_engine.h"

namespace palimpsest::inference {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class HttpDoorTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Door>> Open(const std::string& listen) {
    config_.run.name = "quick";
    config_.inference.http.listen = listen;
    return OpenHttpDoor(config_, {service_, serving_, telemetry_, SystemClock(), nullptr});
  }

  InferenceDaemonConfig config_;
  Metrics metrics_{"inference", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
  Serving serving_;
  InferenceServer service_{{}, serving_, telemetry_, SystemClock()};
};

TEST_F(HttpDoorTest, ThereIsNoneUnlessItIsAskedFor) {
  const auto door = Open("");
  ASSERT_TRUE(door.ok()) << door.status();
  EXPECT_EQ(*door, nullptr);
}

TEST_F(HttpDoorTest, ItServesUnderTheRunsNameOnAFreePort) {
  const auto door = Open("127.0.0.1:0");
  ASSERT_TRUE(door.ok()) << door.status();
  EXPECT_THAT((*door)->address(), StartsWith("127.0.0.1:"));
  httplib::Client client("http://" + (*door)->address());
  EXPECT_EQ(client.Get("/v1/models")->status, 503);  // no weights yet
  serving_.Install(std::make_shared<ScriptedEngine>(), nullptr, nullptr);
  const auto listed = client.Get("/v1/models");
  EXPECT_EQ(listed->status, 200);
  EXPECT_THAT(listed->body, HasSubstr("\"id\":\"quick\""));
  EXPECT_EQ(client.Get("/v1/models/quick")->status, 200);
  EXPECT_EQ(client.Post("/v1/completions", "{}", "application/json")->status, 400);
  const auto wrong = client.Get("/v1/completions");
  EXPECT_EQ(wrong->status, 404);
  EXPECT_THAT(wrong->body, HasSubstr("no such path or method"));
}

TEST_F(HttpDoorTest, BeyondLoopbackOnlyWhenToldSo) {
  config_.inference.http.listen = "0.0.0.0:0";
  EXPECT_THAT(std::string(Validate(config_.inference).message()),
              StartsWith("inference.http.listen=0.0.0.0:0"));
  config_.inference.serve.rpc.insecure = true;
  EXPECT_TRUE(Validate(config_.inference).ok());
}

TEST_F(HttpDoorTest, SenselessBoundsAreRefusedByName) {
  const auto refused = [](const std::function<void(HttpSection&)>& breaks) {
    InferenceConfig config;
    breaks(config.http);
    return std::string(Validate(config).message());
  };
  EXPECT_THAT(refused([](auto& c) { c.connections = 0; }),
              StartsWith("inference.http.connections=0"));
  EXPECT_THAT(refused([](auto& c) { c.max_body = 0; }), StartsWith("inference.http.max_body=0"));
  EXPECT_THAT(refused([](auto& c) { c.deadline = absl::ZeroDuration(); }),
              StartsWith("inference.http.deadline=0"));
}

}  // namespace
}  // namespace palimpsest::inference
