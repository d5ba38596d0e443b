#include "tools/doctor/judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace palimpsest::tools {
namespace {

using testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

// What is named, with something to do unless it passes.
void Expect(const Finding& finding, const std::string& name, Verdict verdict) {
  EXPECT_EQ(finding.name, name);
  EXPECT_EQ(finding.verdict, verdict) << finding.saw;
  EXPECT_FALSE(finding.saw.empty());
  EXPECT_EQ(finding.todo.empty(), verdict == Verdict::kPass) << finding.todo;
}

TEST(JudgeTest, TooLittleSpaceFailsAndLittleWarns) {
  Expect(JudgeSpace(100 * kMiB, {.bytes = 200 * kMiB}), "space", Verdict::kPass);
  Expect(JudgeSpace(100 * kMiB, {.bytes = 200 * kMiB - 1}), "space", Verdict::kWarn);
  const Finding little = JudgeSpace(100 * kMiB, {.bytes = 100 * kMiB - 1});
  Expect(little, "space", Verdict::kFail);
  EXPECT_THAT(little.saw, HasSubstr("99 MiB free"));
  EXPECT_THAT(little.saw, HasSubstr("take 100 MiB"));
}

TEST(JudgeTest, InodesAreJudgedWhereTheyAreCounted) {
  Expect(JudgeInodes({.inodes = std::numeric_limits<int64_t>::max()}), "inodes", Verdict::kPass);
  Expect(JudgeInodes({.inodes = 600}), "inodes", Verdict::kWarn);
  Expect(JudgeInodes({.inodes = 0}), "inodes", Verdict::kFail);
}

TEST(JudgeTest, LowLimitsAreNamedWithTheCommandThatRaisesThem) {
  Expect(JudgeOpenFiles({.open_files = 1024}), "open_files", Verdict::kPass);
  const Finding files = JudgeOpenFiles({.open_files = 64});
  Expect(files, "open_files", Verdict::kFail);
  EXPECT_EQ(files.todo, "ulimit -n 1024");
  Expect(JudgeProcesses({.processes = 500}), "processes", Verdict::kWarn);
  Expect(JudgeProcesses({.processes = 10}), "processes", Verdict::kFail);
}

TEST(JudgeTest, MemoryIsThatOfTheKvPoolAndEightCopiesOfTheWeights) {
  RunNeeds needs;
  needs.kv_pool_bytes = 512 * kMiB;
  const int64_t bytes = MemoryBytes(needs, {.all = 10 * kMiB});
  EXPECT_EQ(bytes, 512 * kMiB + 320 * kMiB);
  Expect(JudgeMemory(bytes, {.memory_bytes = 2 * bytes}), "memory", Verdict::kPass);
  Expect(JudgeMemory(bytes, {.memory_bytes = bytes + 1}), "memory", Verdict::kWarn);
  Expect(JudgeMemory(bytes, {.memory_bytes = bytes - 1}), "memory", Verdict::kFail);
}

TEST(JudgeTest, EachRankHoldsWeightsAndGradientsAndAReferenceIfThereIsOne) {
  RunNeeds needs;
  needs.kv_pool_bytes = 7;
  needs.ranks = 3;
  EXPECT_EQ(MemoryBytes(needs, {.all = 1000, .sliced = 900}), 4000 * (3 * 2 + 5 + 1) + 7);
  needs.reference = true;
  EXPECT_EQ(MemoryBytes(needs, {.all = 1000, .sliced = 900}), 4000 * (3 * 3 + 5 + 1) + 7);
  needs.slices = 5;  // one for each rank, two of which are on other nodes
  EXPECT_EQ(MemoryBytes(needs, {.all = 1000, .sliced = 900}),
            4 * (3 * (2 * (100 + 180) + 1000) + (5 + 1) * 1000) + 7);
  needs.ranks = 0;  // another node's
  needs.replicas = 2;
  EXPECT_EQ(MemoryBytes(needs, {.all = 1000, .sliced = 900}), 2 * (4000 + 7));
}

TEST(JudgeTest, ANodeThatCannotBeReachedIsNamedWithNothingElse) {
  const auto findings = JudgeAcquaintance(
      {.node = "node1", .reached = absl::UnavailableError("node1:5000: Connection refused")},
      absl::Minutes(5));
  ASSERT_EQ(findings.size(), 1u);
  Expect(findings[0], "network to node1", Verdict::kFail);
  EXPECT_THAT(findings[0].saw, HasSubstr("refused"));
}

TEST(JudgeTest, SlowNetworksClocksApartAndLateFilesAreNamedByNode) {
  const auto verdicts = [](const Acquaintance& seen) {
    std::vector<Verdict> all;
    for (const Finding& finding : JudgeAcquaintance(seen, absl::Minutes(5))) {
      EXPECT_THAT(finding.name, HasSubstr("to n"));
      EXPECT_EQ(finding.todo.empty(), finding.verdict == Verdict::kPass);
      all.push_back(finding.verdict);
    }
    return all;
  };
  using enum Verdict;
  const absl::Duration soon = absl::Milliseconds(5), late = absl::Seconds(3);
  EXPECT_THAT(verdicts({"n", {}, soon, -soon, soon}), testing::ElementsAre(kPass, kPass, kPass));
  EXPECT_THAT(verdicts({"n", {}, late, -late, late}), testing::ElementsAre(kWarn, kWarn, kWarn));
  EXPECT_THAT(verdicts({"n", {}, soon, absl::Minutes(3), absl::InfiniteDuration()}),
              testing::ElementsAre(kPass, kFail, kFail));
}

TEST(JudgeTest, GpusAreAskedForByPlacementOnly) {
  RunNeeds needs;
  Expect(JudgeGpus(needs, {})[0], "gpu", Verdict::kPass);
  EXPECT_EQ(JudgeGpus(needs, {})[0].saw, "none here");
  Expect(JudgeGpus(needs, {})[1], "nccl", Verdict::kPass);
  needs.gpus = 2;
  needs.ranks = 2;
  const Gpus one{.names = {"H200"}, .driver = "550.1"};
  Expect(JudgeGpus(needs, one)[0], "gpu", Verdict::kFail);
  EXPECT_EQ(JudgeGpus(needs, one)[0].saw, "1: H200, driver 550.1; placement asks for 2");
  const Gpus two{.names = {"H200", "H200"}, .driver = "550.1", .nccl = "NCCL 2.20.3"};
  Expect(JudgeGpus(needs, two)[0], "gpu", Verdict::kPass);
  Expect(JudgeGpus(needs, two)[1], "nccl", Verdict::kPass);
  Expect(JudgeGpus(needs, {.names = {"a", "b"}})[1], "nccl", Verdict::kWarn);
  Expect(JudgeGpus({}, {.problem = "no driver"})[0], "gpu", Verdict::kFail);
}

TEST(JudgeTest, MoreThreadsThanCoresWarn) {
  RunNeeds needs;
  needs.inference_threads = 2;
  needs.trainer_threads = 4;
  Expect(JudgeCores(needs, {.cores = 4}), "cores", Verdict::kPass);
  Expect(JudgeCores(needs, {.cores = 2}), "cores", Verdict::kWarn);
}

TEST(JudgeTest, MoreCpusThanTheJobHasOnTheNodeFail) {
  RunNeeds needs;
  needs.cpus_of_job = 16;
  needs.cpus = 16;
  Expect(JudgeCpus(needs), "cpus", Verdict::kPass);
  needs.cpus = 17;
  const Finding many = JudgeCpus(needs);
  Expect(many, "cpus", Verdict::kFail);
  EXPECT_THAT(many.saw, HasSubstr("gives 17"));
  EXPECT_THAT(many.saw, HasSubstr("has 16"));
}

TEST(JudgeTest, AStopThatKillsTheOrchestratorBeforeItsRolloutsAreOverWarns) {
  RunNeeds needs;
  needs.stop_grace = absl::Seconds(30);
  needs.drain_grace = absl::Seconds(22);
  Expect(JudgeStop(needs), "stop_grace", Verdict::kPass);
  needs.drain_grace = absl::Seconds(23);  // three quarters of 30 s are 22.5
  const Finding late = JudgeStop(needs);
  Expect(late, "stop_grace", Verdict::kWarn);
  EXPECT_THAT(late.saw, HasSubstr("placement.stop_grace=30s"));
  EXPECT_THAT(late.saw, HasSubstr("orchestrator.drain_grace=23s"));
}

TEST(JudgeTest, AClockThatIsFarFromTheFileServersFails) {
  const absl::Time now = absl::FromUnixSeconds(1'800'000'000);
  const absl::Duration lease = absl::Minutes(5);
  Expect(JudgeClock(now, now - absl::Seconds(1), lease), "clock", Verdict::kPass);
  Expect(JudgeClock(now, now + absl::Seconds(30), lease), "clock", Verdict::kWarn);
  Expect(JudgeClock(now, now - absl::Minutes(3), lease), "clock", Verdict::kFail);
  const absl::Time epoch = absl::UnixEpoch() + absl::Hours(1);
  Expect(JudgeClock(epoch, epoch, lease), "clock", Verdict::kFail);
}

// One row of each tensor, counted by hand.
TEST(NeedsTest, ParametersOfAFreshModelAreCountedByItsTensors) {
  const InitModel init{.layers = 2,
                       .hidden = 3,
                       .intermediate = 5,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 2,
                       .tied = true};
  const int64_t embedding = 257 * 3, q = 3 * 8, k = 3 * 4, v = 3 * 4, o = 8 * 3;
  const int64_t mlp = 3 * 5 + 3 * 5 + 5 * 3, norms = 3 + 3 + 2 + 2, last = 3;
  const int64_t layers = 2 * (q + k + v + o + mlp + norms);
  const ParameterCount count = *ParametersOf({.init = init});
  EXPECT_EQ(count.all, embedding + layers + last);
  EXPECT_EQ(count.sliced, embedding + layers);
}

TEST(NeedsTest, AMissingModelFolderIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(ParametersOf({.folder = "/nowhere/at/all"}).status()));
}

TEST(NeedsTest, DiskHoldsOneMoreOfEachThanIsKept) {
  RunNeeds needs;
  needs.keep_versions = 3;
  needs.keep_checkpoints = 2;
  EXPECT_EQ(DiskBytes(needs, 1'000'000) - DiskBytes(needs, 0), 4 * 4'000'000 + 3 * 12'000'000);
}

std::map<std::string, Node> Printed() {
  std::map<std::string, Node> printed;
  const auto add = [&](const std::string& role, const std::string& text) {
    printed[role] = *ParseYaml(text, role);
  };
  add("env", "env: {listen: '127.0.0.1:7001', metrics: '127.0.0.1:0'}");
  add("orchestrator",
      "orchestrator: {listen: '127.0.0.1:0', metrics: '127.0.0.1:0', drain_grace: 20s}");
  const std::string inference =
      "inference: {listen: '127.0.0.1:0', metrics: '[::1]:7002', threads: 3, kv_pool_bytes: 64MiB, "
      "lease: 5m, http: {listen: ''}}\n"
      "router: {listen: '127.0.0.1:7003', metrics: '127.0.0.1:0', http: {listen: "
      "'127.0.0.1:7004'}, ";
  add("inference", inference + "enabled: false}");
  add("router", inference + "enabled: true}");
  add("trainer",
      "run: {folder: runs/x}\nmodel: {folder: ''}\ntls: {folder: certs}\n"
      "trainer: {listen: '127.0.0.1:0', metrics: '127.0.0.1:0', threads: 2, keep_versions: 3, "
      "keep_checkpoints: 2, weights: sharded, loss: {reference_kl: {coefficient: 0.1}}}");
  return printed;
}

TEST(NeedsTest, AreReadFromWhatTheDaemonsPrint) {
  const auto needs = NeedsOf(Printed());
  ASSERT_TRUE(needs.ok()) << needs.status();
  EXPECT_EQ(needs->run.folder, "runs/x");
  EXPECT_EQ(needs->kv_pool_bytes, 64 * kMiB);
  EXPECT_EQ(needs->inference_threads, 3);
  EXPECT_EQ(needs->lease, absl::Minutes(5));
  EXPECT_EQ(needs->drain_grace, absl::Seconds(20));
  EXPECT_FALSE(needs->router);
  ASSERT_EQ(needs->places.size(), 2u);
  EXPECT_EQ(needs->places[0].key, "env.listen");
  EXPECT_EQ(needs->places[1].at.host, "::1");
  EXPECT_EQ(needs->places[1].at.port, 7002);
}

std::vector<std::string> KeysOf(const RunNeeds& needs) {
  std::vector<std::string> keys;
  for (const ListenPlace& place : needs.places) keys.push_back(place.key);
  return keys;
}

TEST(NeedsTest, ARouterListensByItsOwnKeys) {
  PlacementSection placement;
  placement.router.replicas = 1;
  EXPECT_THAT(RolesOf({}), testing::ElementsAre("env", "trainer", "inference", "orchestrator"));
  EXPECT_THAT(RolesOf(placement),
              testing::ElementsAre("env", "trainer", "inference", "router", "orchestrator"));
  const auto needs = NeedsOf(Printed(), placement);
  ASSERT_TRUE(needs.ok()) << needs.status();
  EXPECT_TRUE(needs->router);
  EXPECT_THAT(KeysOf(*needs), testing::ElementsAre("env.listen", "inference.metrics",
                                                   "router.listen", "router.http.listen"));
}

TEST(NeedsTest, AnInferenceDaemonThatWasToldToRouteIsARouter) {
  auto printed = Printed();
  printed["inference"] = printed["router"];
  const auto needs = NeedsOf(printed);
  ASSERT_TRUE(needs.ok()) << needs.status();
  EXPECT_TRUE(needs->router);
  EXPECT_THAT(KeysOf(*needs),
              testing::ElementsAre("env.listen", "router.listen", "router.http.listen"));
}

TEST(NeedsTest, OfOneNodeOnlyWhatIsPlacedThereCounts) {
  PlacementSection placement;
  placement.trainer = {.ranks = 3, .nodes = {0, 1}, .gpus = 2};
  placement.inference = {.replicas = 2, .nodes = {1}, .gpus = 1};
  const auto all = NeedsOf(Printed(), placement);
  const auto first = NeedsOf(Printed(), placement, 0), second = NeedsOf(Printed(), placement, 1);
  ASSERT_TRUE(all.ok() && first.ok() && second.ok()) << all.status();
  EXPECT_TRUE(all->reference);
  EXPECT_EQ(first->slices, 3);
  EXPECT_EQ(all->tls.folder, "certs");
  EXPECT_THAT((std::vector{all->ranks, all->replicas, all->gpus}), testing::ElementsAre(3, 2, 8));
  EXPECT_THAT((std::vector{first->ranks, first->replicas, first->gpus}),
              testing::ElementsAre(2, 0, 4));
  EXPECT_THAT((std::vector{second->ranks, second->replicas, second->gpus}),
              testing::ElementsAre(1, 2, 4));
}

std::vector<std::pair<std::string, int64_t>> DaemonsAt(const RunNeeds& needs) {
  std::vector<std::pair<std::string, int64_t>> daemons;
  for (const ListenPlace& place : needs.places) daemons.emplace_back(place.key, place.daemons);
  return daemons;
}

TEST(NeedsTest, APlaceIsAskedForByEachReplicaOfItsNode) {
  using testing::Pair;
  auto printed = Printed();
  printed["trainer"] = *ParseYaml(
      "run: {folder: runs/x}\nmodel: {folder: ''}\ntls: {folder: certs}\n"
      "trainer: {listen: '127.0.0.1:7005', metrics: '127.0.0.1:0', threads: 2, keep_versions: 3, "
      "keep_checkpoints: 2, weights: sharded, loss: {reference_kl: {coefficient: 0.1}}}",
      "trainer");
  PlacementSection placement;
  placement.env.nodes = {1};
  placement.trainer = {.ranks = 3, .nodes = {0, 1}};
  placement.inference = {.replicas = 3, .nodes = {0, 0, 1}};
  const auto all = NeedsOf(printed, placement);
  const auto first = NeedsOf(printed, placement, 0), second = NeedsOf(printed, placement, 1);
  ASSERT_TRUE(all.ok() && first.ok() && second.ok()) << all.status();
  EXPECT_THAT(DaemonsAt(*all),
              testing::ElementsAre(Pair("env.listen", 1), Pair("trainer.listen", 1),
                                   Pair("inference.metrics", 3)));
  EXPECT_THAT(DaemonsAt(*first),
              testing::ElementsAre(Pair("trainer.listen", 1), Pair("inference.metrics", 2)));
  EXPECT_THAT(DaemonsAt(*second),
              testing::ElementsAre(Pair("env.listen", 1), Pair("inference.metrics", 1)));
}

TEST(NeedsTest, WhatADaemonDoesNotPrintIsNamed) {
  auto printed = Printed();
  printed.erase("inference");
  EXPECT_THAT(NeedsOf(printed).status().message(), HasSubstr("inference.threads"));
}

}  // namespace
}  // namespace palimpsest::tools
