#include "tests/simulation/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace palimpsest::simulation {
namespace {

constexpr int64_t kSeeds = 500;
constexpr int64_t kPlantedSeeds = 40;  // in which a broken promise must be found

// One thread runs at a time, so a second core would only make each turn a wake-up: many times
// slower, most of all on a busy machine.
class OnOneCore : public testing::Environment {
  void SetUp() override {
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(sched_getcpu(), &core);
    ASSERT_EQ(sched_setaffinity(0, sizeof(core), &core), 0);
  }
};
testing::Environment* const kOnOneCore = testing::AddGlobalTestEnvironment(new OnOneCore);

// Where fsync costs nothing.
std::string Scratch() {
  const std::string memory = "/dev/shm";
  const bool there = access(memory.c_str(), W_OK) == 0;
  return absl::StrFormat("%s/palimpsest-simulation-%d", there ? memory : testing::TempDir(),
                         getpid());
}

Outcome HistoryOf(uint64_t seed, Plant plant = Plant::kNone) {
  const std::string folder = Scratch();
  const Outcome outcome = Simulate(Draw(seed, plant), folder);
  std::filesystem::remove_all(folder);
  return outcome;
}

std::string Story(uint64_t seed, const Outcome& outcome) {
  std::string text = absl::StrFormat("seed %d\n", seed);
  for (const std::string& line : outcome.latest) text += line + "\n";
  for (const auto& [promise, how] : outcome.broken) {
    text += absl::StrFormat("BROKEN %s: %s\n", promise, how);
  }
  return text + absl::StrFormat(
                    "again: PALIMPSEST_SIMULATION_FIRST=%d "
                    "PALIMPSEST_SIMULATION_SEEDS=1 build/release/bin/simulation_test "
                    "--gtest_filter=*NoPromise*\n",
                    seed);
}

// Ends the process with 2 for a value that is no number from `least` on: no history breaks nothing.
int64_t FromEnvironment(const char* name, int64_t otherwise, int64_t least) {
  constexpr int64_t kMost = 1'000'000'000'000'000;
  const char* text = std::getenv(name);
  int64_t value = otherwise;
  if (text == nullptr) return value;
  if (absl::SimpleAtoi(text, &value) && value >= least && value <= kMost) return value;
  std::fprintf(stderr, "%s=%s is no whole number of [%ld, 10^15]\n", name, text,
               static_cast<long>(least));
  std::exit(2);
}

// PALIMPSEST_SIMULATION_SEEDS histories, from PALIMPSEST_SIMULATION_FIRST on.
TEST(SimulationTest, NoPromiseIsBrokenWhateverGoesWrong) {
  const int64_t first = FromEnvironment("PALIMPSEST_SIMULATION_FIRST", 1, 0);
  const int64_t seeds = FromEnvironment("PALIMPSEST_SIMULATION_SEEDS", kSeeds, 1);
  int64_t broken = 0, events = 0, attempts = 0, turns = 0, continued = 0, episodes = 0;
  int64_t compactions = 0, compactions_before = 0;
  double hours = 0;
  for (int64_t seed = first; seed < first + seeds && broken < 5; ++seed) {
    const Outcome outcome = HistoryOf(static_cast<uint64_t>(seed));
    events += outcome.events;
    attempts += outcome.attempts;
    turns += outcome.turns;
    continued += outcome.continued;
    episodes += outcome.continued_episodes;
    compactions += outcome.trained_events;
    compactions_before += outcome.continued_events;
    hours += outcome.seconds / 3600;
    if (outcome.broken.empty()) continue;
    ++broken;
    ADD_FAILURE() << Story(static_cast<uint64_t>(seed), outcome);
  }
  EXPECT_TRUE(continued > 0 || seeds < kSeeds) << "no sample was cut and went on";
  EXPECT_TRUE(episodes > 0 || seeds < kSeeds) << "no episode was cut and went on";
  EXPECT_TRUE(compactions > 0 || seeds < kSeeds) << "nothing that was trained was compacted";
  EXPECT_TRUE(compactions_before > 0 || seeds < kSeeds) << "nothing that went on was compacted";
  std::printf(
      "%ld histories from seed %ld: %ld events, %ld starts, %ld turns, %ld samples and %ld "
      "episodes cut and gone on with %ld compactions, %ld compactions trained, %.1f hours\n",
      static_cast<long>(seeds), static_cast<long>(first), static_cast<long>(events),
      static_cast<long>(attempts), static_cast<long>(turns), static_cast<long>(continued),
      static_cast<long>(episodes), static_cast<long>(compactions_before),
      static_cast<long>(compactions), hours);
}

TEST(SimulationTest, ASeedHasOneHistory) {
  std::set<uint64_t> digests;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const Outcome once = HistoryOf(seed), again = HistoryOf(seed);
    EXPECT_EQ(once.digest, again.digest) << seed;
    EXPECT_EQ(once.events, again.events) << seed;
    EXPECT_EQ(once.turns, again.turns) << seed;
    digests.insert(once.digest);
  }
  EXPECT_EQ(digests.size(), 10u);
}

struct Planted {
  const char* name;
  Plant plant;
  const char* promise;  // that it breaks
};
class PlantTest : public testing::TestWithParam<Planted> {};

TEST_P(PlantTest, IsFoundAndNamed) {
  for (uint64_t seed = 1; seed <= kPlantedSeeds; ++seed) {
    const Outcome outcome = HistoryOf(seed, GetParam().plant);
    const auto found = outcome.broken.find(GetParam().promise);
    if (found == outcome.broken.end()) continue;
    std::printf("seed %ld: %s: %s\n", static_cast<long>(seed), found->first.c_str(),
                found->second.c_str());
    return;
  }
  FAIL() << "nobody noticed in " << kPlantedSeeds << " seeds";
}

INSTANTIATE_TEST_SUITE_P(
    Violations, PlantTest,
    testing::Values(Planted{"ATokenWithoutVersion", Plant::kTokenWithoutVersion, "tokens"},
                    Planted{"AFailureThatIsScored", Plant::kFailureScored, "rewards"},
                    Planted{"AnAcceptedRolloutThatIsLost", Plant::kAcceptedRolloutLost, "accepted"},
                    Planted{"ADiskThatLies", Plant::kDiskLies, "accepted"},
                    Planted{"ABatchThatIsTrainedTwice", Plant::kBatchTrainedTwice, "batches"},
                    Planted{"APromptThatIsSkipped", Plant::kPromptSkipped, "prompts"},
                    Planted{"OldWeightsThatAreDenied", Plant::kOldWeightsDenied, "tokens"},
                    Planted{"HalfWeightsThatAreServed", Plant::kHalfWeightsServed, "weights"},
                    Planted{"AQueueWithoutBound", Plant::kQueueUnbounded, "queues"},
                    Planted{"WeightsThatAreNeverServed", Plant::kNeverServed, "liveness"},
                    Planted{"ARolloutThatIsTooOld", Plant::kStaleTrained, "staleness"},
                    Planted{"AReplayOfAnotherStep", Plant::kReplayOfAnother, "replays"},
                    Planted{"AnEventWithAnotherDigest", Plant::kEventForged, "events"},
                    Planted{"AnEventThatIsForgotten", Plant::kEventForgotten, "events"}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace palimpsest::simulation
