#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "common/weights/durable_file.h"
#include "services/trainer/engine/checkpoint_folder.h"
#include "services/trainer/engine/weight_decay.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest()
      : root_(fs::path(::testing::TempDir()) /
              (std::string("ckpt_") +
               ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(root_);
  }
  ~CheckpointTest() override { fs::remove_all(root_); }

  absl::Status Write(int64_t step, int keep = 2) {
    CheckpointState state{.updates = step};
    for (int64_t i = 1; i <= step; ++i) {
      state.ledger.Add({.step = i, .batch_id = "b" + std::to_string(i), .loss = 0.1 * i});
    }
    return WriteCheckpoint(root_, std::move(state), keep, [&](const std::string& folder) {
      return weights::WriteFileDurably(folder + "/data", "step " + std::to_string(step));
    });
  }
  int64_t Newest() {
    const auto found = NewestCheckpoint(root_);
    return found.ok() && *found ? (*found)->state.ledger.step() : -1;
  }

  std::string root_;
};

TEST_F(CheckpointTest, TheNewestOnesStayAndTheNewestIsFound) {
  EXPECT_FALSE(NewestCheckpoint(root_)->has_value());
  for (int64_t step : {1, 2, 5}) ASSERT_TRUE(Write(step).ok());
  EXPECT_EQ(Newest(), 5);
  EXPECT_FALSE(fs::exists(root_ + "/step-00000001"));
  EXPECT_TRUE(fs::exists(root_ + "/step-00000002"));
}

// What JSON still reads: a number that is another one.
TEST_F(CheckpointTest, AStateThatIsNotWhatWasWrittenIsBrokenToo) {
  for (int64_t step : {1, 2}) ASSERT_TRUE(Write(step).ok());
  const std::string path = root_ + "/step-00000002/state.json";
  std::string text = *weights::ReadSmallFile(path, 1 << 20);
  const size_t at = text.find("0.1");
  ASSERT_NE(at, std::string::npos);
  text[at + 2] = '3';
  std::ofstream(path) << text;
  EXPECT_EQ(Newest(), 1);
  fs::remove(path + ".xxh3");
  EXPECT_EQ(Newest(), 2) << "the control: of a time before seals, it is taken for good";
}

TEST_F(CheckpointTest, ABrokenOneIsPassedOverAndAllBrokenIsAnError) {
  for (int64_t step : {1, 2}) ASSERT_TRUE(Write(step).ok());
  std::ofstream(root_ + "/step-00000002/data") << "step 3";
  EXPECT_EQ(Newest(), 1);
  fs::remove(root_ + "/step-00000001/state.json");
  EXPECT_TRUE(absl::IsDataLoss(NewestCheckpoint(root_).status()));
}

TEST_F(CheckpointTest, WhatADeadWriterLeftIsNoCheckpointAndGoesAway) {
  ASSERT_TRUE(Write(1).ok());
  fs::create_directories(root_ + "/.tmp-dead");
  EXPECT_EQ(Newest(), 1);
  ASSERT_TRUE(Write(2).ok());
  EXPECT_FALSE(fs::exists(root_ + "/.tmp-dead"));
}

TEST_F(CheckpointTest, AttemptsRise) {
  EXPECT_EQ(*NextAttempt(root_), 0);
  EXPECT_EQ(*NextAttempt(root_), 1);
}

TEST(CheckpointStateTest, EveryFieldOfAResultComesBack) {
  StepResult r{.step = 1,
               .batch_id = "b\"1",
               .loss = 0.1,
               .grad_norm = std::numeric_limits<double>::infinity(),
               .learning_rate = 1e-3,
               .tokens = 10,
               .loss_tokens = 5,
               .entropy = 2.5,
               .mismatch = {{3, 4, 0.5, 0.25, 0.125}},
               .ratio = RatioStats{1, 2, 0.3, 0.4, 0.5, 0.6},
               .reference_kl = 0.25,
               .rejected = {{"x", RejectReason::kDigest, "why"}},
               .phases = {{"forward", 1.5}},
               .skipped = true,
               .peak_bytes = 1 << 20};
  CheckpointState state{.updates = 7, .files = {{"data", 3, "00"}}};
  state.ledger.Add(r);
  const auto read = CheckpointStateFromJson(ToJson(state));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->updates, 7);
  EXPECT_EQ(read->files, state.files);
  EXPECT_TRUE(std::isnan(read->ledger.results()[0].grad_norm));  // JSON has no infinity
  EXPECT_EQ(ToJson(*read), ToJson(state));
}

TEST(CheckpointStateTest, AResultOfBeforeThereWereMasksIsRead) {
  CheckpointState state;
  state.ledger.Add({.step = 1, .ratio = RatioStats{.mean = 2, .masked_share = 0.5}});
  std::string text = ToJson(state);
  const std::string masked = "\"masked_share\": 0.5,";
  ASSERT_NE(text.find(masked), std::string::npos);
  const auto read = CheckpointStateFromJson(text.erase(text.find(masked), masked.size()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->ledger.results()[0].ratio->mean, 2);
  EXPECT_EQ(read->ledger.results()[0].ratio->masked_share, 0);
}

TEST(CheckpointStateTest, TheChainOfItsBatchesIsOptionalAndNeverHalf) {
  CheckpointState state;
  state.ledger.Add({.step = 1, .batch_id = "a"});
  const std::string text = ToJson(state);
  EXPECT_EQ(CheckpointStateFromJson(text)->ledger.chain(), state.ledger.chain());
  const size_t begin = text.find("\"chain\""), end = text.find('}', begin);
  ASSERT_NE(begin, std::string::npos);
  std::string before = text;
  before.erase(begin, text.find('"', end) - begin);
  const auto read = CheckpointStateFromJson(before);
  ASSERT_TRUE(read.ok()) << read.status() << before;
  EXPECT_EQ(read->ledger.chain(), state.ledger.chain()) << "all its batches are remembered";
  std::string half = text;
  half.replace(begin, end + 1 - begin, "\"chain\": {\"first\": 1, \"xxh3\": \"00\"}");
  EXPECT_TRUE(absl::IsDataLoss(CheckpointStateFromJson(half).status()));
}

TEST(WeightDecayTest, AGroupIsWhatItsNameSays) {
  const auto decays = [](DecayGroup group) {
    return std::vector{Decays(group, "model.norm.weight", 1),
                       Decays(group, "model.layers.0.mlp.up_proj.weight", 2),
                       Decays(group, "model.embed_tokens.weight", 2),
                       Decays(group, "lm_head.weight", 2)};
  };
  EXPECT_THAT(decays(DecayGroup::kMatrices), ElementsAre(false, true, true, true));
  EXPECT_THAT(decays(DecayGroup::kInnerMatrices), ElementsAre(false, true, false, false));
  EXPECT_THAT(decays(DecayGroup::kAll), ElementsAre(true, true, true, true));
}

TEST(CheckpointStateTest, OtherTextsAreDataLoss) {
  for (const char* text :
       {"", "[]", "{}", "{\"format\":1,\"step\":\"1\"}", "nonsense",
        "{\"format\":2,\"step\":0,\"updates\":0,\"results\":[],\"files\":[]}",
        "{\"format\":1,\"step\":3,\"updates\":0,\"results\":[5],\"files\":[]}"}) {
    EXPECT_TRUE(absl::IsDataLoss(CheckpointStateFromJson(text).status())) << text;
  }
  EXPECT_TRUE(
      CheckpointStateFromJson("{\"format\":1,\"step\":0,\"updates\":0,\"results\":[],\"files\":[]}")
          .ok());
}

}  // namespace
}  // namespace palimpsest::trainer
