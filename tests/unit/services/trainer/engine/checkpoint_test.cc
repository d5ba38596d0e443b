#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/weights/durable_file.h"
#include "services/trainer/engine/checkpoint_folder.h"
#include "services/trainer/engine/weight_decay.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest()
      : root_(fs::path(::testing::TempDir()) /
              (std::string("ckpt_") +
               ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(root_);
  }
  ~CheckpointTest() override { fs::remove_all(root_); }

  // As a process does that goes on from the newest one, or from that of `resume`.
  absl::StatusOr<int64_t> Start(KeptCheckpoints keep = {}, int64_t resume = -1) {
    folder_ = CheckpointFolder(root_, keep);
    if (resume >= 0) {
      ASSIGN_OR_RETURN(const FoundCheckpoint found, folder_.At(resume));
      return found.state.ledger.step();
    }
    ASSIGN_OR_RETURN(const auto found, folder_.Newest());
    return found ? found->state.ledger.step() : -1;
  }
  absl::Status Write(int64_t step) {
    CheckpointState state{.updates = step};
    for (int64_t i = 1; i <= step; ++i) {
      state.ledger.Add({.step = i, .batch_id = "b" + std::to_string(i), .loss = 0.1 * i});
    }
    ASSIGN_OR_RETURN(const std::string begun, folder_.Begin());
    RETURN_IF_ERROR(weights::WriteFileDurably(begun + "/data", "step " + std::to_string(step)));
    return folder_.Commit(begun, std::move(state));
  }
  int64_t Newest() { return Start().value_or(-1); }
  void Break(int64_t step) {
    std::ofstream(absl::StrFormat("%s/step-%08d/data", root_, step)) << "stop";
  }
  // Names of folders, shortened: "3 broken-6".
  std::string There() const {
    std::vector<std::string> names;
    const auto listed = weights::ListFolder(root_);
    for (const std::string& name : listed.value_or(std::vector<std::string>())) {
      const size_t at = name.find("step-0");
      if (at == std::string::npos) continue;
      names.push_back(name.substr(0, at) + std::to_string(std::stoi(name.substr(at + 5))));
    }
    return absl::StrJoin(names, " ");
  }

  std::string root_;
  CheckpointFolder folder_{root_, {}};
};

TEST_F(CheckpointTest, TheNewestOnesStayAndTheNewestIsFound) {
  EXPECT_EQ(*Start(), -1);
  for (int64_t step : {1, 2, 5}) ASSERT_TRUE(Write(step).ok());
  EXPECT_EQ(There(), "2 5");
  EXPECT_EQ(Newest(), 5);
}

TEST_F(CheckpointTest, ThoseOfEverySoManyStepsStayForGood) {
  ASSERT_TRUE(Start({.newest = 1, .every = 4}).ok());
  for (int64_t step : {3, 4, 6, 8, 9, 10}) ASSERT_TRUE(Write(step).ok());
  EXPECT_EQ(There(), "4 8 10");
}

// Broken folders counted as the newest: what had just been written was deleted.
TEST_F(CheckpointTest, AfterAFallBackWhatIsWrittenStaysAndTheBrokenNewerOnesAreSetAside) {
  for (const int keep : {1, 2, 3}) {
    fs::remove_all(root_);
    ASSERT_TRUE(Start({.newest = 3}).ok());
    for (int64_t step : {3, 6, 9}) ASSERT_TRUE(Write(step).ok());
    Break(6);
    Break(9);
    ASSERT_EQ(*Start({.newest = keep}), 3);
    EXPECT_EQ(There(), "3 6 9") << "nothing is newer yet";
    ASSERT_TRUE(Write(4).ok());
    EXPECT_EQ(There(), keep == 1 ? "broken-9 4" : "broken-9 3 4");
    EXPECT_EQ(folder_.Durable(), 4);
    EXPECT_EQ(Newest(), 4);
    for (int64_t step : {6, 9}) ASSERT_TRUE(Write(step).ok());
    EXPECT_EQ(Newest(), 9);
  }
}

// Its first save comes behind the broken ones.
TEST_F(CheckpointTest, BrokenOnesBetweenTheOldStateAndTheNextSaveDoNotCount) {
  ASSERT_TRUE(Start({.newest = 3}).ok());
  for (int64_t step : {1, 2, 3}) ASSERT_TRUE(Write(step).ok());
  Break(2);
  Break(3);
  ASSERT_EQ(*Start(), 1);
  ASSERT_TRUE(Write(5).ok());
  EXPECT_EQ(There(), "broken-3 1 5");
}

TEST_F(CheckpointTest, AnOlderOneThatIsBrokenDoesNotCountEither) {
  ASSERT_TRUE(Start({.newest = 4}).ok());
  for (int64_t step : {1, 2, 3, 4}) ASSERT_TRUE(Write(step).ok());
  Break(3);
  ASSERT_EQ(*Start({.newest = 3}), 4);
  ASSERT_TRUE(Write(5).ok());
  EXPECT_EQ(There(), "broken-3 2 4 5");
}

TEST_F(CheckpointTest, OneOfAStepIsTakenOrRefusedAndTheWholeNewerOnesAreAbandoned) {
  EXPECT_TRUE(absl::IsNotFound(Start({}, 3).status()));
  ASSERT_TRUE(Start({.newest = 4}).ok());
  for (int64_t step : {3, 6, 9, 12}) ASSERT_TRUE(Write(step).ok());
  Break(12);
  const absl::Status missing = Start({}, 5).status(), broken = Start({}, 12).status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("there are: 3, 6, 9, 12"));
  EXPECT_TRUE(absl::IsFailedPrecondition(broken));
  EXPECT_THAT(std::string(broken.message()), HasSubstr("data is not what was written"));
  ASSERT_EQ(*Start({}, 3), 3);
  EXPECT_EQ(There(), "3 6 9 12");
  ASSERT_TRUE(Write(4).ok());
  EXPECT_EQ(There(), "abandoned-9 broken-12 3 4");
  EXPECT_EQ(Newest(), 4);
}

TEST_F(CheckpointTest, OneThatIsNotOfTheStepOfItsNameIsPassedOver) {
  for (int64_t step : {3, 6}) ASSERT_TRUE(Write(step).ok());
  fs::rename(root_ + "/step-00000006", root_ + "/step-00000009");
  fs::create_directories(root_ + "/step-7");
  EXPECT_EQ(Newest(), 3);
  EXPECT_THAT(std::string(Start({}, 9).status().message()), HasSubstr("holds the state of step 6"));
}

TEST_F(CheckpointTest, WhatIsDeletedUnderTheProcessIsNotDurable) {
  for (int64_t step : {1, 2}) ASSERT_TRUE(Write(step).ok());
  EXPECT_EQ(folder_.Durable(), 2);
  fs::remove_all(root_ + "/step-00000002");
  EXPECT_EQ(folder_.Durable(), 1);
  fs::remove_all(root_);
  EXPECT_EQ(folder_.Durable(), 0);
  ASSERT_TRUE(Write(2).ok());
  EXPECT_EQ(folder_.Durable(), 2);
}

TEST_F(CheckpointTest, ACommitThatFailsLeavesAllAsItWas) {
  ASSERT_TRUE(Start({.newest = 1}).ok());
  ASSERT_TRUE(Write(1).ok());
  CheckpointState state;
  for (int64_t step : {1, 2}) state.ledger.Add({.step = step, .batch_id = "b"});
  const std::string begun = *folder_.Begin();
  fs::create_directories(begun + "/no file");
  EXPECT_FALSE(folder_.Commit(begun, state).ok());
  EXPECT_EQ(folder_.Durable(), 1);
  EXPECT_EQ(weights::ListFolder(root_)->size(), 1u);
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
  EXPECT_TRUE(absl::IsDataLoss(Start().status()));
}

TEST_F(CheckpointTest, WhatADeadWriterLeftIsNoCheckpointAndGoesAway) {
  ASSERT_TRUE(Write(1).ok());
  fs::create_directories(root_ + "/.tmp-dead");
  EXPECT_EQ(Newest(), 1);
  ASSERT_TRUE(Write(2).ok());
  EXPECT_FALSE(fs::exists(root_ + "/.tmp-dead"));
}

TEST_F(CheckpointTest, AttemptsRise) {
  EXPECT_EQ(*NextAttempt(root_, -1), 0);
  EXPECT_EQ(*NextAttempt(root_, -1), 1);
  EXPECT_EQ(*NextAttempt(root_, 1), 2);
}

// "3": a flipped bit may leave a number. 16 digits: more than the contract holds.
TEST_F(CheckpointTest, AFileOfTheAttemptThatIsDamagedCostsNothing) {
  for (const char* text : {"", "q7\n", "-1\n", "3\n", "4000000000000000\n", "\xff"}) {
    fs::create_directories(root_);
    std::ofstream(root_ + "/attempt") << text;
    EXPECT_EQ(*NextAttempt(root_, 17), 18) << text;
    EXPECT_EQ(*NextAttempt(root_, 18), 19);
  }
  fs::remove(root_ + "/attempt");
  EXPECT_EQ(*NextAttempt(root_, 4), 5) << "of a run whose file is gone";
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
