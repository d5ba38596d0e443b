#include "tests/unit/tools/fsck/fsck_fixture.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using orchestrator::FakeWorld;
using orchestrator::Ledger;
using testing::HasSubstr;
using testing::Not;

TEST_F(FsckTest, ARunThatWasKilledAndRolledBackIsSound) { ExpectSound(); }

// No false alarm: neither on what a kill leaves nor on what the next attempt makes of it.
TEST_F(FsckTest, WhereverItIsKilledARunIsSoundThenAndAtItsEnd) {
  const ScopedLogSink quiet([](const std::string&) {});
  int killed = 0;
  for (const int32_t max_staleness : {0, 1}) {
    for (int calls = 15; calls < 300; calls += 19) {
      fs::remove_all(folder_);
      fs::create_directories(folder_);
      FakeWorld world(folder_);
      world.checkpoint_every = 3;
      world.DieAfter(calls);
      const absl::Status first = RunAttempt(world, folder_, max_staleness);
      WriteManifests(folder_);
      if (first.ok()) WriteCheckpoint(folder_, world.TrainedBatches());
      Look(max_staleness);
      EXPECT_EQ(code_, 0) << "killed after " << calls << " calls\n" << table_;
      if (first.ok()) break;
      ++killed;
      world.RollTrainerBack();
      world.Revive();
      ASSERT_TRUE(RunAttempt(world, folder_, max_staleness).ok());
      WriteManifests(folder_);
      WriteCheckpoint(folder_, world.TrainedBatches());
      Look(max_staleness);
      EXPECT_EQ(code_, 0) << "ended after " << calls << " calls\n" << table_;
    }
  }
  EXPECT_GT(killed, 6);
}

TEST_F(FsckTest, ALiveLedgerIsReadBesideItsWriter) {
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", kRun, kSeed);
  ASSERT_TRUE(ledger.ok());
  ASSERT_TRUE((*ledger)->BeginAttempt(absl::Now()).ok());
  ASSERT_TRUE((*ledger)->OpenGroup("registers").ok());
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_EQ(json_["checks"][1]["looked_at"], 9);
  EXPECT_EQ((*ledger)->OpenGroup("registers")->id, 9);
}

// What kill -9 leaves: commits that are only in the -wal.
TEST_F(FsckTest, CommitsOfAKilledOrchestratorAreSeen) {
  const std::string dead = folder_ + "-dead";
  fs::remove_all(dead);
  {
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", kRun, kSeed);
    ASSERT_TRUE(ledger.ok());
    ASSERT_TRUE((*ledger)->OpenGroup("registers").ok());
    ASSERT_TRUE((*ledger)->DropGroup(8, "nobody answers").ok());
    fs::copy(folder_, dead, fs::copy_options::recursive);
  }
  fs::remove_all(folder_);
  fs::rename(dead, folder_);
  ASSERT_GT(fs::file_size(folder_ + "/ledger.sqlite-wal"), 0u);
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_EQ(json_["checks"][1]["looked_at"], 9);
}

TEST_F(FsckTest, AFolderWithoutALedgerIsNotARun) {
  fs::remove(folder_ + "/ledger.sqlite");
  Look();
  EXPECT_EQ(code_, 2);
  EXPECT_TRUE(json_.is_null());
  EXPECT_THAT(table_, HasSubstr("there is no ledger"));
}

TEST_F(FsckTest, AnEmptyNameOfAFolderIsRefused) {
  fs::remove_all(folder_);
  folder_.clear();
  Look();
  EXPECT_EQ(code_, 2);
  EXPECT_THAT(table_, HasSubstr("RUN=\"\" is empty"));
}

TEST_F(FsckTest, ALedgerOfAnotherFormatIsRefusedWithItsFormat) {
  Corrupt("UPDATE meta SET value = '7' WHERE key = 'format'");
  Look();
  EXPECT_EQ(code_, 2);
  EXPECT_THAT(table_, HasSubstr("ledger.format=7"));
}

TEST_F(FsckTest, AFileThatIsNoDatabaseIsAFinding) {
  std::ofstream(folder_ + "/ledger.sqlite") << std::string(5000, 'x');
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("FAIL  ledger_file"));
}

TEST_F(FsckTest, AnIndexThatIsNotOfItsTableIsFound) {
  Corrupt(
      "PRAGMA writable_schema = ON; UPDATE sqlite_master SET "
      "sql = replace(sql, 'UNIQUE(task, idx)', 'UNIQUE(idx, task)') WHERE name = 'prompt_groups'");
  ExpectOnly("ledger_file", "missing from index");
}

TEST_F(FsckTest, APromptWithTwoStatesIsFound) {
  Corrupt("UPDATE prompt_groups SET state = 4 WHERE id = 5");
  ExpectOnly("prompts_have_one_state",
             "prompt 5 has two states: dropped, and in the batch of step 5");
}

TEST_F(FsckTest, AnEpisodeThatStandsTwiceIsFound) {
  Corrupt("UPDATE rollouts SET idx = 3 WHERE grp = 6");
  ExpectOnly("prompts_have_one_state", "prompts 3 and 6 are the same");
}

TEST_F(FsckTest, ASkippedPromptIsFound) {
  Corrupt("UPDATE prompt_groups SET state = 2, step = NULL WHERE id = 4");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("prompt 4 is still ready, but prompt 7 is in a batch"));
}

TEST_F(FsckTest, PromptsInTheWrongOrderAreFound) {
  Corrupt("UPDATE prompt_groups SET step = 9 - step WHERE id IN (2, 4)");  // steps 4 and 5
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("prompt 3 is in the batch of step 4, an earlier prompt in that"));
}

TEST_F(FsckTest, AnAcceptedRolloutThatIsLostIsFound) {
  Corrupt("DELETE FROM rollouts WHERE grp = 3 AND sample = 1");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("but 15 are there"));
  EXPECT_THAT(table_, HasSubstr("step 4: prompt 3 has 1 rollouts, prompt 2 has 2"));
}

TEST_F(FsckTest, ASkippedBatchIsFound) {
  Corrupt("DELETE FROM batches WHERE step = 2");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("the batches of steps 2 to 2 are missing"));
  EXPECT_THAT(table_, HasSubstr("step 2 (batch warm.1) has no batch in the ledger"));
}

TEST_F(FsckTest, ABatchThatTheLedgerFormsTwiceIsFound) {
  Corrupt("UPDATE batches SET id = 'rl.2 again', stage_step = 2 WHERE step = 6");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_,
              HasSubstr("step 6 (batch rl.2 again) is number 2 of stage rl, expected is 3"));
}

TEST_F(FsckTest, AStepThatWasTrainedBeforeAnEarlierOneIsFound) {
  Corrupt("UPDATE batches SET trained = 0 WHERE step = 4; DELETE FROM steps WHERE step = 4");
  ExpectOnly("batches_are_in_order",
             "step 5 (batch rl.2) is trained, but step 4 (batch rl.1) before it is not");
}

TEST_F(FsckTest, ABatchThatIsInTheWeightsTwiceIsFound) {
  WriteCheckpoint(folder_, {"warm.0", "warm.1", "rl.0", "rl.1", "rl.1", "rl.3"});
  ExpectOnly("weights_contain_each_batch_once",
             "checkpoint step-00000006: batch rl.1 is in the weights twice, as steps 4 and 5");
}

TEST_F(FsckTest, ABatchThatCheckpointsHaveForgottenIsStillProvedByTheirDigest) {
  fs::remove_all(folder_ + "/checkpoints");
  WriteCheckpoint(folder_, kBatches, 2);
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_THAT(table_, HasSubstr("of step-00000006 testify to the batches of steps 1 to 6\n"));
  std::vector<std::string> others = kBatches;
  others[2] = "rl.another";
  WriteCheckpoint(folder_, others, 2);
  ExpectOnly("weights_contain_each_batch_once",
             "checkpoint step-00000006: the ledger's batches of steps 1 to 6 are not those in its");
}

TEST_F(FsckTest, ACheckpointOfBeforeThereWereDigestsSaysHowFarItTestifies) {
  fs::remove_all(folder_ + "/checkpoints");
  WriteCheckpoint(folder_, {kBatches.begin(), kBatches.begin() + 5}, 2, false);
  Corrupt("DELETE FROM stages WHERE name LIKE 'heldout.last%'");  // as before its end
  Look();
  EXPECT_EQ(code_, 0) << table_;
  const std::string reach =
      "the weights of step-00000005 testify to the batches of steps 4 to 5; of earlier ones";
  EXPECT_THAT(table_, HasSubstr(reach));
  EXPECT_THAT(table_, HasSubstr("; steps 6 to 6 are in no checkpoint yet"));
  for (const json& check : json_["checks"]) {
    if (check["name"] != "weights_contain_each_batch_once") continue;
    EXPECT_THAT(check["notes"][0].get<std::string>(), HasSubstr(reach));
  }
}

TEST_F(FsckTest, ABatchWhoseIdIsNotOfItsStageIsFound) {
  fs::remove_all(folder_ + "/checkpoints");
  WriteCheckpoint(folder_, kBatches, 2, false);
  Corrupt("UPDATE batches SET id = 'rl.another' WHERE step = 3");
  ExpectOnly("batches_are_in_order", "step 3 is batch rl.another, number 0 of stage rl is rl.0");
}

TEST_F(FsckTest, ACheckpointThatIsAheadOfTheLedgerIsFound) {
  std::vector<std::string> ahead = kBatches;
  ahead.push_back("rl.4");
  WriteCheckpoint(folder_, ahead);
  ExpectOnly("weights_contain_each_batch_once", "step 7 (batch rl.4) has no batch in the ledger");
}

TEST_F(FsckTest, ATornCheckpointIsFound) {
  std::ofstream(folder_ + "/checkpoints/step-00000006/model.safetensors") << "weight";
  ExpectOnly("weights_contain_each_batch_once", "checkpoint step-00000006 is broken");
  std::ofstream(folder_ + "/checkpoints/step-00000006/state.json") << "{\"step\": 6}";
  ExpectOnly("weights_contain_each_batch_once", "checkpoint step-00000006 is broken");
}

TEST_F(FsckTest, TrainedBatchesWithoutAnyWeightsAreFound) {
  fs::remove_all(folder_ + "/checkpoints");
  ExpectOnly("weights_contain_each_batch_once",
             "which was saved, but no checkpoint of step 6 is there (of 0 checkpoints)");
  WriteCheckpoint(folder_, {kBatches.begin(), kBatches.begin() + 3});
  ExpectOnly("weights_contain_each_batch_once", "no checkpoint of step 6 is there (of 1 check");
  fs::remove_all(folder_ + "/checkpoints");
  fs::remove_all(folder_ + "/store");
  ExpectOnly("weights_contain_each_batch_once",
             "6 batches are trained, and nothing to prove it from: checkpoints and store are "
             "missing or empty");
  Corrupt("UPDATE batches SET trained = 0; DELETE FROM steps");  // as before the first step
  Look();
  EXPECT_EQ(code_, 0) << table_;
}

// It may have been told to save at its end only: that is no finding, but it is said.
TEST_F(FsckTest, ALastCheckpointThatIsSetAsideIsToldAndOneThatIsGoneIsFound) {
  const std::string last = folder_ + "/checkpoints/step-00000006";
  const std::string aside = folder_ + "/checkpoints/broken-step-00000006";
  fs::rename(last, aside);
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_THAT(table_, HasSubstr("the checkpoint of step 6 is set aside"));
  fs::rename(aside, folder_ + "/checkpoints/broken-step-00000005");
  ExpectOnly("weights_contain_each_batch_once", "no checkpoint of step 6 is there");
}

TEST_F(FsckTest, ARunWithoutACheckpointThatIsNotOverIsToldOf) {
  fs::remove_all(folder_ + "/checkpoints");
  Corrupt("DELETE FROM stages WHERE name LIKE 'heldout.last%'");
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_THAT(table_, HasSubstr("6 batches are trained and in no checkpoint: a trainer that sta"));
}

TEST_F(FsckTest, AManifestThatNamesAnotherStepIsFound) {
  const std::string path = folder_ + "/store/v00000002/manifest.json";
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  json manifest = json::parse(text.str());
  const int64_t step = manifest["source_step"];
  manifest["source_step"] = step + 1;
  std::ofstream(path) << manifest.dump();
  ExpectOnly(
      "versions_are_of_their_steps",
      absl::StrFormat("version 2: its manifest says step %d, the ledger step %d", step + 1, step));
}

TEST_F(FsckTest, AVersionWithADamagedFileIsFound) {
  std::ofstream(folder_ + "/store/v00000003/tokenizer.json") << "{}";
  ExpectOnly("versions_are_of_their_steps", "version v00000003 is broken");
}

TEST_F(FsckTest, AVersionOfAStepWithoutABatchIsFound) {
  Corrupt("UPDATE versions SET step = 60 WHERE version = 1");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("version 1 is of step 60, the ledger's last batch is 6"));
}

}  // namespace
}  // namespace palimpsest::tools
