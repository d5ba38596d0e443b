#include "services/inference/http/api.h"

#include <gmock/gmock.h>

#include <future>
#include <nlohmann/json.hpp>

#include "common/rpc/server.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "services/inference/http/local_upstream.h"
#include "services/inference/http/remote_upstream.h"
#include "tests/unit/services/inference/server/scripted_engine.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

enum class Behind { kReplica, kChannel };

// The API over the real service and a scripted engine, without sockets: directly, and by a channel.
class ApiTest : public ::testing::TestWithParam<Behind> {
 protected:
  explicit ApiTest(bool with_engine = true) {
    const std::vector<std::string> special{"<|end|>"};
    const std::shared_ptr<const Tokenizer> tokenizer =
        *Tokenizer::FromJson(*ByteTokenizerJson(special));
    if (with_engine) {
      serving_.Install(engine_, tokenizer,
                       std::make_shared<const FolderChat>(FolderChat::Read("no-such-folder")));
    }
    if (GetParam() == Behind::kReplica) {
      upstream_ = std::make_unique<LocalUpstream>(service_, serving_);
    } else {
      server_ = *RpcServer::Start({}, {&service_}, metrics_, SystemClock());
      upstream_ = std::make_unique<RemoteUpstream>(server_->InProcess(), tokenizer);
    }
    api_ = std::make_unique<OpenAiApi>(OpenAiApi::Options{.model = "m",
                                                          .deadline = absl::Seconds(30),
                                                          .reader_queue = 3,
                                                          .too_slow = [this] { ++too_slow_; }},
                                       *upstream_, SystemClock());
  }
  ~ApiTest() override { engine_->Drain(absl::ZeroDuration()); }

  HttpAnswer Complete(
      const std::string& fields, const std::function<bool()>& alive = [] { return true; }) {
    return api_->Complete(
        {.path = "/v1/completions", .body = R"({"prompt": "ab")" + fields + "}", .alive = alive});
  }
  std::future<HttpAnswer> CompleteBeside(const std::string& fields) {
    return std::async(std::launch::async, [this, fields] { return Complete(fields); });
  }
  std::string Submitted(size_t index = 0) {
    EXPECT_TRUE(engine_->WaitForSubmissions(index + 1));
    return engine_->submission(index).request_id;
  }
  // The data of the next events; waits for at least one.
  static std::vector<std::string> Next(const HttpAnswer& answer) {
    std::optional<std::string> piece;
    do {
      piece = answer.next_piece();
    } while (piece.has_value() && piece->empty());
    std::vector<std::string> data;
    std::string rest = piece.value_or("");
    while (!rest.empty()) {
      const size_t end = rest.find("\n\n");
      EXPECT_EQ(rest.substr(0, 6), "data: ");
      data.push_back(rest.substr(6, end - 6));
      rest = rest.substr(end + 2);
    }
    return data;
  }

  std::shared_ptr<ScriptedEngine> engine_ = std::make_shared<ScriptedEngine>();
  Metrics metrics_{"inference", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
  Serving serving_;
  InferenceServer service_{{.reader_queue = 100}, serving_, telemetry_, SystemClock()};
  std::atomic<int> too_slow_{0};
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<Upstream> upstream_;
  std::unique_ptr<OpenAiApi> api_;
};

TEST_P(ApiTest, AnAnswerComesWholeWithAllItsChoices) {
  engine_->FinishInsideSubmit(2);
  const HttpAnswer answer = api_->Complete(
      {.path = "", .body = R"({"prompt": ["a", "bc"], "n": 2, "user": "me"})", .alive = [] {
         return true;
       }});
  EXPECT_EQ(answer.status, 200) << answer.body;
  const json body = json::parse(answer.body);
  ASSERT_EQ(body["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], "all");
  }
  EXPECT_EQ(body["model"], "m");
  EXPECT_EQ(body["usage"],
            json::parse(R"({"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11})"));
  const GenerationRequest second = engine_->submission(1);
  EXPECT_THAT(second.prompt, ElementsAre('b', 'c'));
  EXPECT_EQ(second.first_sample, 2);
  EXPECT_EQ(second.client, "me");
  EXPECT_LT(second.deadline, absl::InfiniteFuture());
}

TEST_P(ApiTest, RequestsWithoutASeedDrawDifferently) {
  engine_->FinishInsideSubmit(1);
  Complete("");
  Complete("");
  Complete(R"(, "seed": 5)");
  EXPECT_NE(engine_->submission(0).sampling.seed, engine_->submission(1).sampling.seed);
  EXPECT_NE(engine_->submission(0).request_id, engine_->submission(1).request_id);
  EXPECT_EQ(engine_->submission(2).sampling.seed, 5u);
}

TEST_P(ApiTest, AStreamSendsEachTokenAsItIsDrawn) {
  const HttpAnswer answer =
      Complete(R"(, "stream": true, "stream_options": {"include_usage": true})");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.type, "text/event-stream");
  const std::string id = Submitted();
  engine_->Token(id, "x");
  auto events = Next(answer);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(json::parse(events[0])["choices"][0]["text"], "x");
  EXPECT_EQ(json::parse(events[0])["id"], id);
  engine_->Token(id, "y");
  EXPECT_EQ(json::parse(Next(answer)[0])["choices"][0]["text"], "y");
  engine_->Finish(id);
  EXPECT_EQ(json::parse(Next(answer)[0])["choices"][0]["finish_reason"], "stop");
  events = Next(answer);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(json::parse(events[0])["usage"]["completion_tokens"], 2);
  EXPECT_EQ(events[1], "[DONE]");
  EXPECT_EQ(answer.next_piece(), std::nullopt);
}

TEST_P(ApiTest, NothingOfAStreamIsLostWhenTheEngineIsQuicker) {
  engine_->FinishInsideSubmit(2);
  const HttpAnswer answer = Complete(R"(, "stream": true)");
  EXPECT_EQ(json::parse(Next(answer)[0])["choices"][0]["text"], "xx");
  EXPECT_EQ(json::parse(Next(answer)[0])["choices"][0]["finish_reason"], "stop");
  EXPECT_THAT(Next(answer), ElementsAre("[DONE]"));
}

TEST_P(ApiTest, RefusalsComeAsStatusEvenOfAStream) {
  const HttpAnswer bad = Complete(R"(, "stream": true, "top_p": 3)");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(json::parse(bad.body)["error"]["param"], "top_p");
  EXPECT_FALSE(bad.next_piece);
  engine_->RefuseNext(absl::ResourceExhaustedError("max_queued=8"));
  const HttpAnswer full = Complete("");
  EXPECT_EQ(full.status, 429);
  EXPECT_TRUE(full.try_again);
  const HttpAnswer unknown = Complete(R"(, "model": "gpt")");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(unknown.body, HasSubstr("model=gpt: this server serves m"));
  const HttpAnswer chat = api_->Chat(
      {.path = "", .body = R"({"messages": [{"role": "user", "content": "a"}]})", .alive = {}});
  EXPECT_EQ(chat.status, 400);  // the model has no template
  EXPECT_THAT(chat.body, HasSubstr("messages: "));
  EXPECT_EQ(engine_->submissions(), 0u);
}

TEST_P(ApiTest, OnePromptThatIsRefusedTakesTheOthersWithIt) {
  const HttpAnswer answer = api_->Complete(
      {.path = "", .body = R"({"prompt": [[1], [2], [9999]]})", .alive = [] { return true; }});
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(json::parse(answer.body)["error"]["message"].get<std::string>(),
              StartsWith("prompt[0]: 9999"));
  EXPECT_TRUE(engine_->WaitForCancel(Submitted(0)));
  EXPECT_TRUE(engine_->WaitForCancel(Submitted(1)));
}

TEST_P(ApiTest, AClientThatIsGoneCancels) {
  std::atomic<bool> alive{true};
  auto whole =
      std::async(std::launch::async, [&] { return Complete("", [&] { return alive.load(); }); });
  const std::string id = Submitted();
  EXPECT_EQ(whole.wait_for(std::chrono::milliseconds(250)), std::future_status::timeout);
  alive = false;
  EXPECT_EQ(whole.get().status, 499);
  EXPECT_TRUE(engine_->WaitForCancel(id));
}

TEST_P(ApiTest, AStreamThatIsLetGoCancels) {
  std::optional<HttpAnswer> answer = Complete(R"(, "stream": true)");
  const std::string id = Submitted();
  engine_->Token(id);
  EXPECT_EQ(Next(*answer).size(), 1u);
  answer.reset();
  EXPECT_TRUE(engine_->WaitForCancel(id));
}

TEST_P(ApiTest, ASlowReaderIsCutOff) {
  const HttpAnswer answer = Complete(R"(, "stream": true)");
  const std::string id = Submitted();
  for (int i = 0; i < 4; ++i) engine_->Token(id);  // one more than reader_queue
  for (int i = 0; i < 1000 && too_slow_ == 0; ++i) absl::SleepFor(absl::Milliseconds(10));
  const auto events = Next(answer);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_THAT(json::parse(events[0])["error"]["message"].get<std::string>(),
              HasSubstr("reader_queue=3"));
  EXPECT_EQ(answer.next_piece(), std::nullopt);
  EXPECT_EQ(too_slow_, 1);
  EXPECT_TRUE(engine_->WaitForCancel(id));
}

TEST_P(ApiTest, AFailureIsAStatusOfTheWholeAndAnEventOfAStream) {
  auto whole = CompleteBeside("");
  engine_->Fail(Submitted(0), absl::DeadlineExceededError("late"), false, rl::Outcome::kTruncated);
  EXPECT_EQ(whole.get().status, 504);
  const HttpAnswer stream = Complete(R"(, "stream": true)");
  engine_->Fail(Submitted(1), absl::UnavailableError("gone"), true, rl::Outcome::kInfraFailed);
  EXPECT_THAT(Next(stream)[0], HasSubstr("\"gone\""));
  EXPECT_EQ(stream.next_piece(), std::nullopt);
}

TEST_P(ApiTest, TheModelIsListedAndFoundByItsName) {
  const json list = json::parse(api_->ListModels({}).body);
  ASSERT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list["data"][0]["id"], "m");
  EXPECT_EQ(list["data"][0]["max_model_len"], 1024);
  EXPECT_EQ(json::parse(api_->GetModel({.path = "/v1/models/m", .body = "", .alive = {}}).body),
            list["data"][0]);
  EXPECT_EQ(api_->GetModel({.path = "/v1/models/x", .body = "", .alive = {}}).status, 404);
}

class StartingApiTest : public ApiTest {
 protected:
  StartingApiTest() : ApiTest(false) {}
};

TEST_P(StartingApiTest, WithoutWeightsItAsksToComeAgain) {
  EXPECT_EQ(Complete("").status, 503);
  EXPECT_TRUE(Complete("").try_again);
  EXPECT_EQ(api_->ListModels({}).status, 503);
}

std::string NameOf(const ::testing::TestParamInfo<Behind>& info) {
  return info.param == Behind::kReplica ? "BeforeAReplica" : "BeforeAChannel";
}
INSTANTIATE_TEST_SUITE_P(Doors, ApiTest, ::testing::Values(Behind::kReplica, Behind::kChannel),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Doors, StartingApiTest,
                         ::testing::Values(Behind::kReplica, Behind::kChannel), NameOf);

}  // namespace
}  // namespace palimpsest::inference
