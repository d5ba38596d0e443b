// What a backend promises, in process and over gRPC: one suite over a real engine of the same
// weights. What the two say is compared with an engine in process of the test's own.
#include <gmock/gmock.h>

#include <fstream>
#include <numeric>

#include "common/model/decoder.h"
#include "common/rpc/server.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "services/inference/engine/engine_factory.h"
#include "services/inference/server/service.h"
#include "tests/unit/common/weights/scratch_folder.h"
#include "tools/backend.h"

namespace palimpsest::tools {
namespace {

using ::testing::HasSubstr;

enum class Way { kInProcess, kOverGrpc };

// A replica of this process.
class Replica {
 public:
  explicit Replica(const std::string& folder) {
    auto engine =
        inference::MakeEngine({.model_folder = folder, .version = PolicyVersion(1)}).value();
    serving_.Install(std::move(engine), Tokenizer::Load(folder).value(),
                     std::make_shared<const FolderChat>(FolderChat::Read(folder)));
    inference::InferenceServer::Options options{.reader_queue = 1000};
    options.info.set_revision(v1::CONTRACT_REVISION_CURRENT);
    options.info.set_role("inference");
    service_ =
        std::make_unique<inference::InferenceServer>(options, serving_, telemetry_, SystemClock());
    server_ = RpcServer::Start({}, {service_.get()}, metrics_, SystemClock()).value();
  }
  ~Replica() {
    serving_.engine()->Drain(absl::ZeroDuration());
    server_->Shutdown();
  }
  std::string address() const { return server_->address(); }

 private:
  Metrics metrics_{"inference", "test", SystemClock()};
  inference::Telemetry telemetry_{metrics_};
  inference::Serving serving_;
  std::unique_ptr<inference::InferenceServer> service_;
  std::unique_ptr<RpcServer> server_;
};

class BackendContract : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    const auto decoder = model::Decoder::Random({.layers = 2,
                                                 .hidden = 32,
                                                 .intermediate = 48,
                                                 .heads = 4,
                                                 .kv_heads = 2,
                                                 .head_dim = 16,
                                                 .vocab = 257,
                                                 .max_position = 200},
                                                1, model::DType::kFloat32);
    ASSERT_TRUE(decoder->Save(model_.path()).ok());
    const std::vector<std::string> special{"<|end|>"};
    std::ofstream(model_ / "tokenizer.json") << *ByteTokenizerJson(special);
    reference_ = MakeLocalBackend(model_.path(), "float32", "cpu");
    if (GetParam() == Way::kInProcess) {
      backend_ = MakeLocalBackend(model_.path(), "float32", "cpu");
    } else {
      replica_ = std::make_unique<Replica>(model_.path());
      backend_ = MakeRemoteBackend(replica_->address()).value();
    }
  }

  static GenerateAsk Ask(int max_tokens = 90) {
    GenerateAsk ask{.prompt = std::vector<int32_t>(24)};
    std::iota(ask.prompt.begin(), ask.prompt.end(), 60);
    ask.sampling.max_tokens = max_tokens;
    ask.sampling.seed = 7;
    ask.sampling.ignore_eos = true;
    ask.context = {.trigger = context::KvBudget{.budget = 60, .window = 24, .keep_ratio = 0.4},
                   .reference_tokens = 16};
    return ask;
  }

  weights::ScratchFolder model_;
  std::unique_ptr<Replica> replica_;
  std::unique_ptr<Backend> backend_, reference_;
};

TEST_P(BackendContract, TextBecomesIdsAndComesBack) {
  const auto ids = backend_->Encode("h\xc3\xa9llo", false);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, *reference_->Encode("h\xc3\xa9llo", false));
  EXPECT_EQ(*backend_->Decode(*ids, false), "h\xc3\xa9llo");
  EXPECT_TRUE(absl::IsInvalidArgument(backend_->Decode({5000}, false).status()));
}

TEST_P(BackendContract, ARolloutHasTheSameTokensEventsAndDigests) {
  for (const double temperature : {0.0, 1.0}) {
    GenerateAsk ask = Ask();
    ask.sampling.temperature = temperature;
    const auto said = backend_->Generate(ask), expected = reference_->Generate(ask);
    ASSERT_TRUE(said.ok() && expected.ok()) << said.status() << expected.status();
    EXPECT_EQ(said->tokens, expected->tokens);
    EXPECT_EQ(said->logprobs, expected->logprobs);
    EXPECT_EQ(said->origins, expected->origins);
    ASSERT_GE(said->events.size(), 2u);
    ASSERT_EQ(said->events.size(), expected->events.size());
    for (size_t e = 0; e < said->events.size(); ++e) {
      EXPECT_EQ(said->events[e].kept, expected->events[e].kept);
      EXPECT_EQ(said->events[e].digest, expected->events[e].digest);
    }
  }
}

TEST_P(BackendContract, ScoresOfALogAreWhatWasSampledAndAWrongDigestIsRefused) {
  const auto rollout = backend_->Generate(Ask());
  ASSERT_TRUE(rollout.ok()) << rollout.status();
  ScoreAsk ask{.ids = rollout->tokens, .events = rollout->events};
  const auto scored = backend_->Score(ask);
  ASSERT_TRUE(scored.ok()) << scored.status();
  ASSERT_EQ(scored->logprobs.size() + 1, rollout->tokens.size());
  for (size_t i = rollout->prompt_tokens; i < rollout->tokens.size(); ++i)
    EXPECT_NEAR(scored->logprobs[i - 1], rollout->logprobs[i], 2e-4) << i;
  ask.events[0].digest->bytes[0] ^= 1;
  EXPECT_THAT(std::string(backend_->Score(ask).status().message()), HasSubstr("digest"));
}

TEST_P(BackendContract, RefusalsNameTheFieldAndHaveTheSameCode) {
  const std::pair<const char*, void (*)(GenerateAsk&)> wrong[] = {
      {"top_p", [](GenerateAsk& a) { a.sampling.top_p = 2; }},
      {"temperature", [](GenerateAsk& a) { a.sampling.temperature = -1; }},
      {"max_tokens", [](GenerateAsk& a) { a.sampling.max_tokens = 0; }},
      {"stop_ids", [](GenerateAsk& a) { a.sampling.stop_ids = {-4}; }},
      {"budget", [](GenerateAsk& a) { std::get<context::KvBudget>(a.context.trigger).budget = 3; }},
      {"keep_ratio",
       [](GenerateAsk& a) { std::get<context::KvBudget>(a.context.trigger).keep_ratio = 2; }},
      {"prompt", [](GenerateAsk& a) { a.prompt[3] = 900; }},
      {"prompt", [](GenerateAsk& a) { a.prompt.resize(400, 1), a.context = {}; }},
      {"prompt", [](GenerateAsk& a) { a.prompt.clear(); }}};
  for (const auto& [field, breaks] : wrong) {
    GenerateAsk ask = Ask();
    breaks(ask);
    const absl::Status said = backend_->Generate(ask).status();
    EXPECT_TRUE(absl::IsInvalidArgument(said)) << field << ": " << said;
    EXPECT_EQ(said.code(), reference_->Generate(ask).status().code()) << field;
    EXPECT_THAT(std::string(said.message()), HasSubstr(field));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(backend_->Score({.ids = {1, 2000}}).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(backend_->Score({.ids = {1, 2, 3}, .temperature = 0}).status()));
}

INSTANTIATE_TEST_SUITE_P(Ways, BackendContract, ::testing::Values(Way::kInProcess, Way::kOverGrpc),
                         [](const auto& test) {
                           return test.param == Way::kInProcess ? "InProcess" : "OverGrpc";
                         });

}  // namespace
}  // namespace palimpsest::tools
