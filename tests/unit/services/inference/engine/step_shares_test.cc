#include <gmock/gmock.h>

#include "tests/unit/services/inference/engine/engine_testing.h"

// What stands beside decoding in a step: slices of events, pieces of prompts.
namespace palimpsest::inference {
namespace {

// Tells in one list who got what.
class Teller final : public GenerationSink {
 public:
  Teller(char name, std::string& told, absl::Mutex& mu) : name_(name), told_(told), mu_(mu) {}
  void OnTokens(TokenChunk chunk) override {
    absl::MutexLock lock(&mu_);
    told_.append(chunk.ids.size(), name_);
  }
  void OnEvent(int32_t, const context::Event&) override {
    absl::MutexLock lock(&mu_);
    told_ += '!';
  }
  void OnFinished(Finished) override { done.Notify(); }
  void OnFailure(Failure) override { done.Notify(); }
  absl::Notification done;

 private:
  char name_;
  std::string& told_;
  absl::Mutex& mu_;
};

// By this clock a slice of an event takes longer than its share of a step. The first event is
// solved head by head (nothing is known of their cost), later ones layer by layer.
TEST_F(EngineTest, AnEventOfThreeLayersOfTwoHeadsIsSpreadOverStepsOfTheOthers) {
  RestlessClock clock;
  auto engine = MakeEngine({.model_folder = Folder(1),
                            .version = PolicyVersion(1),
                            .limits = {.check_pages = true},
                            .clock = &clock});
  ASSERT_TRUE(engine.ok());
  std::string told;
  absl::Mutex mu;
  GenerationRequest a = Request(1, 60), b = Request(1, 120);
  a.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  b.request_id = "b";
  const auto sink_a = std::make_shared<Teller>('a', told, mu),
             sink_b = std::make_shared<Teller>('b', told, mu);
  (*engine)->Pause();
  ASSERT_TRUE((*engine)->Submit(a, sink_a).ok());
  ASSERT_TRUE((*engine)->Submit(b, sink_b).ok());
  (*engine)->Resume();
  sink_a->done.WaitForNotification();
  sink_b->done.WaitForNotification();
  // a.b.a.b., and where an event falls due b gets its tokens alone.
  std::vector<size_t> alone;
  for (size_t end = told.find('!'); end != told.npos; end = told.find('!', end + 1)) {
    alone.push_back(end - 1 - told.rfind('a', end));
  }
  ASSERT_GE(alone.size(), 2u) << told;
  EXPECT_THAT(alone.front(), testing::AllOf(testing::Ge(6u), testing::Le(12u))) << told;
  EXPECT_THAT(alone, testing::Each(testing::AllOf(testing::Ge(3u), testing::Le(12u)))) << told;
}

// By this clock a step of one that decodes takes two seconds and the first prompt's 16 rows took
// one: that is the half of a step that the second prompt gets. Alone it comes whole.
TEST_F(EngineTest, APromptBesideOthersThatDecodeComesInPieces) {
  for (const bool beside : {true, false}) {
    RestlessClock clock;
    int first = 0;  // rows of the first step of more than 16
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .limits = {.check_pages = true},
                              .clock = &clock,
                              .observer = {.step = [&](double, int rows) {
                                if (first == 0 && rows > 16) first = rows;
                              }}});
    ASSERT_TRUE(engine.ok());
    const auto others = std::make_shared<Collector>(1);
    GenerationRequest b = Request(1, 400), c = Request(1, 4);
    if (beside) {
      ASSERT_TRUE((*engine)->Submit(b, others).ok());
      others->WaitForTokens(20);
    }
    c.request_id = "c";
    while (c.prompt.size() < 301) c.prompt.push_back(7 * static_cast<int>(c.prompt.size()) % 250);
    const auto late = std::make_shared<Collector>(1);
    (*engine)->Pause();
    ASSERT_TRUE((*engine)->Submit(c, late).ok());
    (*engine)->Resume();
    late->Wait();
    EXPECT_EQ(late->finished.size(), 1u);
    (*engine)->Cancel("r");
    if (beside) others->Wait();
    EXPECT_EQ(first, beside ? 17 : 301);
  }
}

}  // namespace
}  // namespace palimpsest::inference
