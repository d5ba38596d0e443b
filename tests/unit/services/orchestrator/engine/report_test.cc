#include "services/orchestrator/engine/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/tokenizer/byte_tokenizer.h"
#include "nlohmann/json.hpp"
#include "services/orchestrator/engine/curve_svg.h"
#include "services/orchestrator/engine/panel.h"
#include "services/orchestrator/engine/transcript.h"

namespace palimpsest::orchestrator {
namespace {

using testing::HasSubstr;

TEST(HalfIntervalTest, IsThatOfAMean) {
  EXPECT_EQ(HalfInterval({1}), 0);
  // Sample variance of {0, 1} is 1/2; 1.96 sqrt(1/2 / 2).
  EXPECT_NEAR(HalfInterval({0, 1}), 1.96 * 0.5, 1e-12);
}

TEST(ReportJsonTest, WeighsMismatchByTokensAndRewardsByNeedForMemory) {
  ReportFacts facts;
  facts.context = "am";
  facts.first.sampled = {{"first", false, 0, 0.2, true}, {"first", false, 1, 0.4, false}};
  facts.last.sampled = {{"last", false, 0, 0.6, true}, {"last", false, 1, 1.0, false}};
  facts.steps = {{.step = 1, .stage = "a", .loss = 3},
                 {.step = 2,
                  .reward = 0.5,
                  .sampled_tokens = 100,
                  .staleness_max = 1,
                  .mismatch_kl = 1e-6,
                  .mismatch_max_abs = 1e-3,
                  .loss_tokens = 30,
                  .generate_seconds = 2},
                 {.step = 3,
                  .reward = 0.5,
                  .sampled_tokens = 300,
                  .mismatch_kl = 5e-6,
                  .mismatch_max_abs = 1e-4,
                  .loss_tokens = 10,
                  .generate_seconds = 2}};
  facts.rl_steps = 2;
  const auto report = nlohmann::json::parse(ReportJson(facts));
  EXPECT_NEAR(report["mismatch_kl"].get<double>(), 2e-6, 1e-15);
  EXPECT_EQ(report["mismatch_max_abs"], 1e-3);
  EXPECT_EQ(report["tokens_per_s"], 100);
  EXPECT_EQ(report["staleness_max"], 1);
  EXPECT_EQ(report["sft_steps"], 1);
  EXPECT_NEAR(report["reward_last"].get<double>(), 0.8, 1e-12);
  EXPECT_NEAR(report["heldout_last"]["reward_needs_memory"].get<double>(), 0.6, 1e-12);
  EXPECT_EQ(report["heldout_last"]["prompts_needs_memory"], 1);
}

TEST(CurveSvgTest, EscapesItsTitleAndDrawsEveryPoint) {
  Curve curve{.title = "a<b", .batches = {{1, 0.5}, {2, 0.75}}, .heldout = {{0, 0.3}, {2, 0.9}}};
  const std::string svg = CurveSvg(curve);
  EXPECT_THAT(svg, HasSubstr("a&lt;b"));
  EXPECT_THAT(svg, HasSubstr("0.900"));
  EXPECT_THAT(svg, HasSubstr("375.0,200.0 690.0,125.0"));  // (1, .5) and (2, .75) in the plot
  EXPECT_THAT(CurveSvg({}), HasSubstr("</svg>"));
}

TEST(TranscriptTest, MarksWhatTheHeadKept) {
  const std::vector<std::string> special = {"<|end|>"};
  const auto tokenizer = Tokenizer::FromJson(*ByteTokenizerJson(special));
  ASSERT_TRUE(tokenizer.ok());
  rl::Rollout rollout;
  const std::string text =
      "\x01"
      "b|`cdefgh";
  for (const char c : text) rollout.tokens.push_back(c);
  rollout.prompt_tokens = 2;
  context::Event event{.at = 8, .window = {2, 8}};
  event.kept = context::KeptPositions({1, 2});
  const std::vector<int32_t> kept = {3, 4, 7}, other = {2};
  event.kept.AddHead(kept);
  event.kept.AddHead(other);
  rollout.events = {event};
  EXPECT_EQ(MarkedWindow(rollout, event, **tokenizer, 0, 0), "·`c··f");
  const std::string page = Transcript(rollout, **tokenizer, 0, 0);
  EXPECT_THAT(page, HasSubstr("| 8 | [2, 8) | attention_matching | 1-3 of 6 | `·'c··f` |"));
  EXPECT_THAT(page, HasSubstr("\n\\x01b\n"));
  rollout.events.clear();
  EXPECT_THAT(Transcript(rollout, **tokenizer, 0, 0), HasSubstr("Nothing was compacted"));
}

TEST(PrintableTest, APageStaysATextWhateverWasSampled) {
  EXPECT_EQ(Printable(std::string("a\0b\x1b[2J\r", 7)), "a\\x00b\\x1b[2J");
  EXPECT_EQ(Printable("\r\x7f"), "\\x0d\\x7f");
  EXPECT_EQ(Printable("\xc2\x80\xc2\x9f\xc2\xa0\xc2"), "\\x80\\x9f\xc2\xa0\xc2");
  const std::string kept = "lines\n\ttabs, привет, 你, 👋";
  EXPECT_EQ(Printable(kept), kept);
}

TEST(PanelTest, APhaseWithoutStepsAndARunWithoutWeightsShowNoNumbers) {
  Progress progress;
  EXPECT_THAT(PanelText(progress, 100), testing::Not(HasSubstr("step")));
  EXPECT_THAT(PanelText(progress, 100), HasSubstr("weights -"));
  progress.policy_version = 3;
  EXPECT_THAT(PanelText(progress, 100), HasSubstr("weights v3"));
}

TEST(PanelTest, SaysWhatIsKnownAndNothingMore) {
  Progress progress;
  progress.run = "quickstart";
  progress.step = 10;
  progress.total_steps = 40;
  EXPECT_THAT(PanelText(progress, 100), HasSubstr("step 10/40"));
  EXPECT_THAT(PanelText(progress, 100), HasSubstr("reward -"));
  progress.reward = 0.5;
  progress.left_seconds = 3725;
  EXPECT_THAT(PanelText(progress, 100), HasSubstr("reward 0.500"));
  EXPECT_THAT(PanelText(progress, 100), HasSubstr("left 1:02:05"));
  EXPECT_THAT(PanelText(progress, 5), HasSubstr("quick\n"));
}

}  // namespace
}  // namespace palimpsest::orchestrator
