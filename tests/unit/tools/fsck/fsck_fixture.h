#pragma once

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
#include "tools/fsck/fsck.h"

namespace palimpsest::tools {

inline constexpr char kRun[] = "test";
inline constexpr uint64_t kSeed = 11;
// Of what a ledger holds of its configuration, what fsck reads.
inline const std::map<std::string, std::string> kSettings = {
    {"orchestrator.rl.advantage", "group_std"},
    {"orchestrator.rl.advantage_eps", "1e-04"},
    {"orchestrator.rl.overlong.limit", "0"},
    {"orchestrator.rl.overlong.stretch", "0"},
    {"orchestrator.rl.overlong.penalty", "1"}};

// 2 supervised batches, then 4 of RL with 2 prompts of 2 rollouts each.
inline orchestrator::RunPlan SmallPlan(int32_t max_staleness) {
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

inline absl::Status RunAttempt(orchestrator::FakeWorld& world, const std::string& folder,
                               int32_t max_staleness = 0) {
  Metrics metrics("orchestrator", "test", SystemClock());
  ASSIGN_OR_RETURN(const auto run,
                   orchestrator::Run::Open(SmallPlan(max_staleness),
                                           {kRun, folder, kSeed, "the command", kSettings},
                                           world.peers(), metrics, SystemClock()));
  return run->Execute();
}

inline void WriteManifests(const std::string& folder) {
  const auto ledger = orchestrator::Ledger::Open(folder + "/ledger.sqlite", kRun, kSeed);
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
inline void WriteCheckpoint(const std::string& folder, const std::vector<std::string>& batches,
                            size_t remembered = 256, bool chained = true) {
  const std::string place = absl::StrFormat("%s/checkpoints/step-%08d", folder, batches.size());
  std::filesystem::create_directories(place);
  std::ofstream(place + "/model.safetensors") << "weights";
  const weights::ManifestFile file = *weights::DigestFile(place, "model.safetensors");
  nlohmann::json state = {
      {"format", 1}, {"step", batches.size()}, {"results", nlohmann::json::array()}};
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

inline const std::vector<std::string> kBatches = {"warm.0", "warm.1", "rl.0",
                                                  "rl.1",   "rl.2",   "rl.3"};

class FsckTest : public testing::Test {
 protected:
  // One run for all tests: its orchestrator died in the middle, its trainer was rolled back.
  static void SetUpTestSuite() {
    const ScopedLogSink quiet([](const std::string&) {});
    whole_ = testing::TempDir() + "fsck-whole";
    std::filesystem::remove_all(whole_);
    std::filesystem::create_directories(whole_);
    orchestrator::FakeWorld world(whole_);
    world.checkpoint_every = 3;
    world.lost_samples = 1;
    world.DieAfter(60);
    ASSERT_FALSE(RunAttempt(world, whole_).ok());
    world.RollTrainerBack();
    world.Revive();
    const absl::Status status = RunAttempt(world, whole_);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(world.TrainedBatches(), kBatches);
    WriteManifests(whole_);
    ASSERT_TRUE(std::filesystem::exists(whole_ + "/store/v00000005/manifest.json"));
    WriteCheckpoint(whole_, {kBatches.begin(), kBatches.begin() + 3});
    WriteCheckpoint(whole_, kBatches);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(whole_); }

  FsckTest()
      : folder_(testing::TempDir() + "fsck-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(whole_, folder_, std::filesystem::copy_options::recursive);
  }
  ~FsckTest() override { std::filesystem::remove_all(folder_); }

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
    json_ = out.str().empty() ? nlohmann::json() : nlohmann::json::parse(out.str());
  }

  // Exactly this check fails, and its first finding says so.
  void ExpectOnly(const std::string& name, const std::string& finding) {
    Look();
    EXPECT_EQ(code_, 1);
    for (const nlohmann::json& check : json_["checks"]) {
      EXPECT_EQ(check["ok"].get<bool>(), check["name"] != name) << check.dump();
      if (check["name"] != name) continue;
      ASSERT_FALSE(check["findings"].empty());
      EXPECT_THAT(check["findings"][0].get<std::string>(), testing::HasSubstr(finding));
    }
    EXPECT_THAT(table_, testing::HasSubstr("FAIL  " + name));
    EXPECT_THAT(table_, testing::HasSubstr(finding));
  }

  void ExpectSound() {
    Look();
    EXPECT_EQ(code_, 0) << table_;
    EXPECT_EQ(json_["run"], kRun);
    EXPECT_EQ(json_["checks"].size(), 13u);
    std::map<std::string, int64_t> looked_at;
    for (const nlohmann::json& check : json_["checks"])
      looked_at[check["name"]] = check["looked_at"];
    EXPECT_EQ(looked_at["prompts_have_one_state"], 8);
    EXPECT_EQ(looked_at["batches_are_in_order"], 6);
    EXPECT_EQ(looked_at["weights_contain_each_batch_once"], 2);
    EXPECT_EQ(looked_at["staleness_is_bounded"], 16);
    EXPECT_EQ(looked_at["messages_say_what_the_ledger_says"], 16);
    EXPECT_EQ(looked_at["cut_samples_can_go_on"], 0);
    EXPECT_EQ(looked_at["advantages_are_of_their_rewards"], 8);
  }

  inline static std::string whole_;
  std::string folder_;
  int code_ = -1;
  std::string table_;
  nlohmann::json json_;
};

}  // namespace palimpsest::tools
