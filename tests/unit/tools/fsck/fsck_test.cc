#include "tools/fsck/fsck.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_format.h"
#include "common/rl/batch_chain.h"
#include "common/telemetry/log.h"
#include "common/weights/manifest.h"
#include "services/orchestrator/engine/ledger.h"
#include "tests/unit/services/orchestrator/engine/fake_world.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using orchestrator::FakeWorld;
using orchestrator::Ledger;
using testing::HasSubstr;
using testing::Not;

constexpr char kRun[] = "test";
constexpr uint64_t kSeed = 11;
// Of what a ledger holds of its configuration, what fsck reads.
const std::map<std::string, std::string> kSettings = {{"orchestrator.rl.advantage", "group_std"},
                                                      {"orchestrator.rl.advantage_eps", "1e-04"},
                                                      {"orchestrator.rl.overlong.limit", "0"},
                                                      {"orchestrator.rl.overlong.stretch", "0"},
                                                      {"orchestrator.rl.overlong.penalty", "1"}};

// 2 supervised batches, then 4 of RL with 2 prompts of 2 rollouts each.
orchestrator::RunPlan SmallPlan(int32_t max_staleness) {
  orchestrator::RunPlan plan;
  plan.tasks = {"registers"};
  plan.stop_strings = {"$"};
  plan.sft = {{.name = "warm", .max_steps = 2, .batch = 2}};
  plan.rl.steps = 4;
  plan.rl.prompts_per_batch = 2;
  plan.rl.samples = 2;
  plan.rl.max_in_flight = 4;
  plan.rl.max_staleness = max_staleness;
  plan.heldout = {.prompts = 2};
  plan.peers.patience = absl::Seconds(1);
  plan.peers.poll = absl::Milliseconds(1);
  plan.peers.max_poll = absl::Milliseconds(2);
  return plan;
}

absl::Status Attempt(FakeWorld& world, const std::string& folder, int32_t max_staleness = 0) {
  Metrics metrics("orchestrator", "test", SystemClock());
  ASSIGN_OR_RETURN(const auto run,
                   orchestrator::Run::Open(SmallPlan(max_staleness),
                                           {kRun, folder, kSeed, "the command", kSettings},
                                           world.peers(), metrics, SystemClock()));
  return run->Execute();
}

void WriteManifests(const std::string& folder) {
  const auto ledger = Ledger::Open(folder + "/ledger.sqlite", kRun, kSeed);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  const auto versions = (*ledger)->Versions();
  ASSERT_TRUE(versions.ok()) << versions.status();
  for (const orchestrator::Weights& w : *versions) {
    const std::string place = folder + "/store/" + weights::FolderName(w.version);
    weights::Manifest manifest{.version = w.version, .run = kRun, .source_step = w.step};
    manifest.files = {*weights::DigestFile(place, "tokenizer.json")};
    std::ofstream(place + "/manifest.json") << *weights::ToJson(manifest);
  }
}

// As the trainer writes it, with what fsck reads of it: the latest batches, and the digest of all.
void WriteCheckpoint(const std::string& folder, const std::vector<std::string>& batches,
                     size_t remembered = 256, bool chained = true) {
  const std::string place = absl::StrFormat("%s/checkpoints/step-%08d", folder, batches.size());
  fs::create_directories(place);
  std::ofstream(place + "/model.safetensors") << "weights";
  const weights::ManifestFile file = *weights::DigestFile(place, "model.safetensors");
  json state = {{"format", 1}, {"step", batches.size()}, {"results", json::array()}};
  rl::BatchChain chain;
  for (size_t i = 0; i < batches.size(); ++i) {
    chain.Add(static_cast<int64_t>(i) + 1, batches[i]);
    if (i + remembered < batches.size()) continue;
    state["results"].push_back({{"step", i + 1}, {"batch_id", batches[i]}, {"loss", 0.5}});
  }
  if (chained) state["chain"] = {{"first", chain.first}, {"xxh3", chain.digest.Hex()}};
  state["files"] = {{{"name", file.name}, {"size", file.size}, {"xxh3", file.xxh3}}};
  std::ofstream(place + "/state.json") << state.dump();
}

const std::vector<std::string> kBatches = {"warm.0", "warm.1", "rl.0", "rl.1", "rl.2", "rl.3"};

class FsckTest : public testing::Test {
 protected:
  // One run for all tests: its orchestrator died in the middle, its trainer was rolled back.
  static void SetUpTestSuite() {
    const ScopedLogSink quiet([](const std::string&) {});
    whole_ = testing::TempDir() + "fsck-whole";
    fs::remove_all(whole_);
    fs::create_directories(whole_);
    FakeWorld world(whole_);
    world.checkpoint_every = 3;
    world.lost_samples = 1;
    world.DieAfter(60);
    ASSERT_FALSE(Attempt(world, whole_).ok());
    world.RollTrainerBack();
    world.Revive();
    const absl::Status status = Attempt(world, whole_);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(world.TrainedBatches(), kBatches);
    WriteManifests(whole_);
    ASSERT_TRUE(fs::exists(whole_ + "/store/v00000005/manifest.json"));
    WriteCheckpoint(whole_, {kBatches.begin(), kBatches.begin() + 3});
    WriteCheckpoint(whole_, kBatches);
  }
  static void TearDownTestSuite() { fs::remove_all(whole_); }

  FsckTest()
      : folder_(testing::TempDir() + "fsck-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(folder_);
    fs::copy(whole_, folder_, fs::copy_options::recursive);
  }
  ~FsckTest() override { fs::remove_all(folder_); }

  // What only a fault can do: the ledger's own code has no call for it.
  void Corrupt(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open((folder_ + "/ledger.sqlite").c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    ASSERT_GT(sqlite3_total_changes(db), 0) << sql;
    sqlite3_close(db);
  }

  void Look(int64_t max_staleness = 0) {
    std::ostringstream out, table;
    code_ =
        RunFsck({.run = folder_, .max_staleness = max_staleness, .settle = absl::ZeroDuration()},
                out, table);
    table_ = table.str();
    json_ = out.str().empty() ? json() : json::parse(out.str());
  }

  // Exactly this check fails, and its first finding says so.
  void ExpectOnly(const std::string& name, const std::string& finding) {
    Look();
    EXPECT_EQ(code_, 1);
    for (const json& check : json_["checks"]) {
      EXPECT_EQ(check["ok"].get<bool>(), check["name"] != name) << check.dump();
      if (check["name"] != name) continue;
      ASSERT_FALSE(check["findings"].empty());
      EXPECT_THAT(check["findings"][0].get<std::string>(), HasSubstr(finding));
    }
    EXPECT_THAT(table_, HasSubstr("FAIL  " + name));
    EXPECT_THAT(table_, HasSubstr(finding));
  }

  void ExpectSound() {
    Look();
    EXPECT_EQ(code_, 0) << table_;
    EXPECT_EQ(json_["run"], kRun);
    EXPECT_EQ(json_["checks"].size(), 13u);
    std::map<std::string, int64_t> looked_at;
    for (const json& check : json_["checks"]) looked_at[check["name"]] = check["looked_at"];
    EXPECT_EQ(looked_at["prompts_have_one_state"], 8);
    EXPECT_EQ(looked_at["batches_are_in_order"], 6);
    EXPECT_EQ(looked_at["weights_contain_each_batch_once"], 2);
    EXPECT_EQ(looked_at["staleness_is_bounded"], 16);
    EXPECT_EQ(looked_at["messages_say_what_the_ledger_says"], 16);
    EXPECT_EQ(looked_at["cut_samples_can_go_on"], 0);
    EXPECT_EQ(looked_at["advantages_are_of_their_rewards"], 8);
  }

  static std::string whole_;
  std::string folder_;
  int code_ = -1;
  std::string table_;
  json json_;
};
std::string FsckTest::whole_;

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
      const absl::Status first = Attempt(world, folder_, max_staleness);
      WriteManifests(folder_);
      if (first.ok()) WriteCheckpoint(folder_, world.TrainedBatches());
      Look(max_staleness);
      EXPECT_EQ(code_, 0) << "killed after " << calls << " calls\n" << table_;
      if (first.ok()) break;
      ++killed;
      world.RollTrainerBack();
      world.Revive();
      ASSERT_TRUE(Attempt(world, folder_, max_staleness).ok());
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

TEST_F(FsckTest, AnInfrastructureFailureWithARewardIsFound) {
  Corrupt("UPDATE rollouts SET outcome = 4, reward = 0 WHERE grp = 2 AND sample = 1");
  ExpectOnly("no_failure_became_a_reward", "of prompt 2 has outcome 4, which is a failure");
}

TEST_F(FsckTest, AMissingRewardThatWouldCountAsZeroIsFound) {
  Corrupt("UPDATE rollouts SET reward = NULL WHERE grp = 0 AND sample = 0");
  ExpectOnly("no_failure_became_a_reward", "of prompt 0 has no finite reward");
}

TEST_F(FsckTest, RewardsThatWereChangedAfterwardsAreFound) {
  Corrupt("UPDATE rollouts SET reward = 1.0");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("FAIL  advantages_are_of_their_rewards"));
  EXPECT_THAT(table_, HasSubstr("the rewards of its group give 0"));
}

TEST_F(FsckTest, ARewardOfAStepThatIsNotThatOfItsRolloutsIsFound) {
  Corrupt("UPDATE steps SET reward = 0.9 WHERE step = 4");
  ExpectOnly("advantages_are_of_their_rewards",
             "step 4 (batch rl.1) was recorded with reward 0.9, its rollouts have ");
  Corrupt("UPDATE steps SET reward = NULL WHERE step = 4");
  ExpectOnly("advantages_are_of_their_rewards", "of rollouts, and was recorded with no reward");
  Corrupt(
      "UPDATE steps SET reward = (SELECT AVG(reward) FROM rollouts r, prompt_groups g "
      "WHERE r.grp = g.id AND g.step = 4) WHERE step = 4");
  ExpectSound();
  Corrupt("UPDATE steps SET reward = 0.5 WHERE step = 1");
  ExpectOnly("advantages_are_of_their_rewards",
             "step 1 (batch warm.0) is of demonstrations, and was recorded with a reward");
}

TEST_F(FsckTest, AdvantagesThatAreNotThoseOfTheirRewardsAreFound) {
  Corrupt("UPDATE rollouts SET advantage = 2 * advantage + (sample = 0) WHERE grp = 5");
  ExpectOnly("advantages_are_of_their_rewards", "of prompt 5 has advantage ");
}

// With what the ledger of an older program holds.
TEST_F(FsckTest, WithoutSettingsAdvantagesBalanceAtLeastAndThatIsSaid) {
  Corrupt("DELETE FROM meta WHERE key = 'settings'");
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_THAT(table_, HasSubstr("of 8 groups the advantages are only seen to balance: the ledger "
                                "does not hold the settings"));
  Corrupt("UPDATE rollouts SET advantage = advantage + 1");
  ExpectOnly("advantages_are_of_their_rewards", "the advantages of prompt 0 do not balance");
  Corrupt("UPDATE rollouts SET bytes = x''");
  Look();
  EXPECT_EQ(code_, 1);
}

TEST_F(FsckTest, SettingsThatNeedLengthsTakeThemOfTheMessages) {
  Corrupt(
      "UPDATE meta SET value = replace(value, '\"group_std\"', '\"length_weighted\"') "
      "WHERE key = 'settings'");
  Corrupt("UPDATE rollouts SET reward = 0.5, advantage = 0");
  Corrupt("UPDATE steps SET reward = 0.5 WHERE stage = 'rl'");
  ExpectSound();
  Corrupt("UPDATE rollouts SET reward = sample");  // other tokens: another baseline than the mean
  Look();
  EXPECT_THAT(table_, HasSubstr("has advantage 0, the rewards of its group give "));
  Corrupt("UPDATE rollouts SET bytes = x''");
  Look();
  EXPECT_THAT(table_, HasSubstr("balance: the ledger does not hold all their messages"));
}

TEST_F(FsckTest, ARolloutOfAVersionThatNobodyKnowsIsFound) {
  Corrupt("UPDATE rollouts SET min_version = 77, max_version = 77 WHERE grp = 7 AND sample = 0");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("of prompt 7 names version 77, which the ledger does not know"));
}

TEST_F(FsckTest, StalenessOverTheBoundIsFoundAndOnlyWhenABoundIsGiven) {
  Corrupt("UPDATE rollouts SET min_version = 1 WHERE grp = 6 AND sample = 0");
  Look();
  EXPECT_EQ(code_, 1);
  const std::string old = "of prompt 6 is 5 steps old (version 1 of step 0), the bound is 0";
  EXPECT_THAT(table_, HasSubstr(old));
  Look(5);
  EXPECT_THAT(table_, Not(HasSubstr(old)));
  std::ostringstream out, table;
  RunFsck({.run = folder_}, out, table);
  EXPECT_THAT(table.str(), HasSubstr("staleness is not judged"));
  EXPECT_THAT(table.str(), Not(HasSubstr(old)));
}

TEST_F(FsckTest, TheNewestVersionOfARolloutCountsToo) {
  Corrupt("UPDATE rollouts SET max_version = 77 WHERE grp = 7 AND sample = 0");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("of prompt 7 names version 77, which the ledger does not know"));
}

TEST_F(FsckTest, AMessageThatIsDamagedIsFound) {
  Corrupt("UPDATE rollouts SET bytes = x'00ff00' WHERE grp = 3 AND sample = 0");
  ExpectOnly("messages_say_what_the_ledger_says", "of prompt 3 is damaged: its bytes are no");
}

TEST_F(FsckTest, AMessageOfAnotherRolloutIsFound) {
  Corrupt(
      "UPDATE rollouts SET bytes = (SELECT bytes FROM rollouts WHERE grp = 0 AND sample = 0) "
      "WHERE grp = 3 AND sample = 0");
  ExpectOnly("messages_say_what_the_ledger_says", "of prompt 3 calls itself g000000");
}

TEST_F(FsckTest, ARowThatContradictsItsMessageIsFound) {
  Corrupt("UPDATE rollouts SET total_tokens = total_tokens + 1 WHERE grp = 5 AND sample = 1");
  ExpectOnly("messages_say_what_the_ledger_says", "of prompt 5: total_tokens is ");
}

// With the message of sample 1 of prompt 7.
constexpr char kKeep[] =
    "INSERT INTO cut_samples SELECT %d, %d, '', bytes FROM rollouts WHERE grp = 7 AND sample = 1";

TEST_F(FsckTest, ASampleThatWasCutOffAnOpenPromptIsSound) {
  ASSERT_TRUE(
      (*Ledger::Open(folder_ + "/ledger.sqlite", kRun, kSeed))->OpenGroup("registers").ok());
  Corrupt(absl::StrFormat(kKeep, 8, 1));
  Look();
  EXPECT_EQ(code_, 0) << table_;
  Corrupt("UPDATE cut_samples SET sample = 0");
  ExpectOnly("cut_samples_can_go_on", "sample 0 of prompt 8 says that it is of sample 1");
  Corrupt("UPDATE cut_samples SET bytes = x'00ff00'");
  ExpectOnly("cut_samples_can_go_on", "sample 0 of prompt 8 is damaged");
  Corrupt("UPDATE cut_samples SET grp = 30");
  ExpectOnly("cut_samples_can_go_on", "there is no such prompt");
}

TEST_F(FsckTest, AnEpisodeThatWasCutHasItsLogAndItsResponses) {
  ASSERT_TRUE(
      (*Ledger::Open(folder_ + "/ledger.sqlite", kRun, kSeed))->OpenGroup("registers").ok());
  Corrupt(
      "INSERT INTO cut_samples SELECT 8, 1, '', bytes FROM rollouts WHERE grp = 7 AND sample = 0");
  Corrupt("INSERT INTO cut_episodes VALUES(8, 1, 2, 'registers', 1, 0, 8, '')");
  Look();
  EXPECT_EQ(code_, 0) << table_;
  Corrupt("UPDATE cut_episodes SET responses = 0");
  ExpectOnly("cut_samples_can_go_on",
             "sample 1 of prompt 8 has 1 responses, its episode was kept at 0");
  Corrupt("DELETE FROM cut_samples");
  ExpectOnly("cut_samples_can_go_on", "sample 1 of prompt 8: its episode is there, its log is not");
}

TEST_F(FsckTest, ASampleThatIsKeptThoughItWasAcceptedIsFound) {
  Corrupt(absl::StrFormat(kKeep, 7, 1));
  ExpectOnly("cut_samples_can_go_on", "sample 1 of prompt 7: the prompt is not open any more");
  EXPECT_THAT(table_, HasSubstr("sample 1 of prompt 7: its rollout was accepted"));
}

}  // namespace
}  // namespace palimpsest::tools
