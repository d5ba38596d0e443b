#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/weights/durable_file.h"
#include "common/weights/safetensors.h"
#include "tests/unit/common/collective/rank_process.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Minutes(3);  // other tests share the cores
constexpr int64_t kSteps = 4;                           // see trainer_rank.cc

// Flat values by name.
using Tensors = std::map<std::string, std::vector<float>>;

// |a - b| / |b|, over all tensors.
double Distance(const Tensors& a, const Tensors& b) {
  double difference = 0, size = 0;
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [name, values] : b) {
    const std::vector<float>& others = a.at(name);
    EXPECT_EQ(others.size(), values.size()) << name;
    for (size_t i = 0; i < values.size(); ++i) {
      difference += std::pow(double{others[i]} - values[i], 2);
      size += std::pow(double{values[i]}, 2);
    }
  }
  return std::sqrt(difference / size);
}

class RanksTest : public ::testing::Test {
 protected:
  RanksTest()
      : root_(::testing::TempDir() + "ranks-" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name() +
              std::to_string(getpid())) {
    fs::remove_all(root_);
  }
  ~RanksTest() override { fs::remove_all(root_); }

  RankProcesses Start(const std::string& run, int size, int64_t last_step,
                      const std::string& fault = "none", const std::string& views = "none",
                      const std::string& dtype = "float32") const {
    fs::create_directories(root_ + "/" + run);
    RankProcesses ranks;
    for (int rank = 0; rank < size; ++rank) {
      ranks.push_back(std::make_unique<RankProcess>(
          std::vector<std::string>{TRAINER_RANK, root_ + "/" + run, std::to_string(rank),
                                   std::to_string(size), std::to_string(last_step), fault, views,
                                   dtype},
          absl::StrFormat("%s/%s/%d.txt", root_, run, rank)));
    }
    return ranks;
  }
  // What rank 0 printed. All ranks print the same.
  std::string Train(const std::string& run, int size, int64_t last_step,
                    const std::string& views = "none", const std::string& dtype = "float32") const {
    RankProcesses ranks = Start(run, size, last_step, "none", views, dtype);
    for (const auto& rank : ranks) {
      EXPECT_EQ(rank->AwaitEnd(kPatience), 0) << rank->Output();
      EXPECT_EQ(rank->Output(), ranks[0]->Output());
    }
    return ranks[0]->Output();
  }
  std::string Checkpoint(const std::string& run, int64_t step) const {
    return absl::StrFormat("%s/%s/run/checkpoints/step-%08d", root_, run, step);
  }
  // Bytes of all but the last norm that rank 1 held at its end, and all of them.
  std::string Held(const std::string& run) const {
    const auto text = weights::ReadSmallFile(root_ + "/" + run + "/held-1.txt", 100);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }
  // The collectives that a rank has begun, in their order.
  std::string Begun(const std::string& run, int rank) const {
    const auto text =
        weights::ReadSmallFile(absl::StrFormat("%s/%s/begun-%d.txt", root_, run, rank), 1 << 20);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }
  // Of all files of a checkpoint that begin with `file`, in their order; of the tensors whose names
  // begin with `prefix`. Slices of one tensor follow one another.
  Tensors Load(const std::string& run, int64_t step, const std::string& file,
               const std::string& prefix) const {
    Tensors tensors;
    const std::string folder = Checkpoint(run, step);
    const auto names = weights::ListFolder(folder);
    EXPECT_TRUE(names.ok()) << names.status();
    for (const std::string& name : names.value_or(std::vector<std::string>())) {
      if (!name.starts_with(file)) continue;
      const auto opened = weights::SafetensorsFile::Open(folder + "/" + name);
      EXPECT_TRUE(opened.ok()) << opened.status();
      for (const auto& [tensor, view] : (*opened)->tensors()) {
        if (!tensor.starts_with(prefix)) continue;
        const auto* values = reinterpret_cast<const float*>(view.bytes.data());
        auto& flat = tensors[tensor];
        flat.insert(flat.end(), values, values + view.bytes.size() / sizeof(float));
      }
    }
    return tensors;
  }
  Tensors Weights(const std::string& run, int64_t step) const {
    return Load(run, step, "model", "");
  }
  // After one step the first moments are the gradients, up to one factor.
  Tensors FirstGradients(const std::string& run) const { return Load(run, 1, "optimizer", "m."); }

  const std::string root_;
};

// Two texts of words and numbers: numbers may differ by 1e-5 of their size.
void ExpectSameNumbers(const std::string& a, const std::string& b) {
  const std::vector<std::string> x = absl::StrSplit(a, absl::ByAnyChar(" \n"));
  const std::vector<std::string> y = absl::StrSplit(b, absl::ByAnyChar(" \n"));
  ASSERT_EQ(x.size(), y.size()) << a << b;
  for (size_t i = 0; i < x.size(); ++i) {
    double p = 0, q = 0;
    if (!absl::SimpleAtod(x[i], &p) || !absl::SimpleAtod(y[i], &q)) {
      EXPECT_EQ(x[i], y[i]);
    } else {
      EXPECT_NEAR(p, q, 1e-5 * std::max(1.0, std::abs(q))) << a << b;
    }
  }
}

// The gradient norm of a step by what a rank has printed; 0 when it is not there.
double NormOf(const std::string& printed, int step) {
  const size_t line = printed.find(absl::StrFormat("step %d loss", step));
  const size_t norm = printed.find(" norm ", line);
  return line == norm ? 0 : std::strtod(printed.c_str() + norm + 6, nullptr);
}

TEST_F(RanksTest, OneTwoAndFourRanksGiveTheSameLossesGradientsAndWeights) {
  const std::string one = Train("one", 1, kSteps);
  for (int step = 1; step <= kSteps; ++step) EXPECT_GT(NormOf(one, step), 1e-3) << one;
  EXPECT_THAT(one, HasSubstr("saw 3: "));  // events
  EXPECT_THAT(one, HasSubstr("replayed r6: 36 tokens "));
  for (const int size : {2, 4}) {
    const std::string run = std::to_string(size);
    ExpectSameNumbers(Train(run, size, kSteps), one);
    EXPECT_LT(Distance(FirstGradients(run), FirstGradients("one")), 1e-5) << size;
    EXPECT_LT(Distance(Weights(run, kSteps), Weights("one", kSteps)), 1e-5) << size;
    // The control: weights of another step are far away.
    EXPECT_GT(Distance(Weights(run, kSteps - 1), Weights("one", kSteps)), 1e-4);
  }
}

TEST_F(RanksTest, OneAndTwoRanksLearnTheSameFromBothViewsOfRollouts) {
  for (const char* way : {"dense", "d1", "d2", "d3"}) {
    const std::string views = way;
    const std::string one = Train(views, 1, 2, views);
    EXPECT_EQ(absl::StrContains(one, "distilled"), views != "dense") << one;
    ExpectSameNumbers(Train(views + "-2", 2, 2, views), one);
    EXPECT_LT(Distance(FirstGradients(views + "-2"), FirstGradients(views)), 1e-5) << views;
    EXPECT_LT(Distance(Weights(views + "-2", 2), Weights(views, 2)), 1e-5) << views;
  }
  // The control: another way of looking is another gradient.
  EXPECT_GT(Distance(FirstGradients("d1"), FirstGradients("d2")), 1e-4);
  EXPECT_GT(Distance(FirstGradients("d1"), FirstGradients("d3")), 1e-4);
}

// Steps of this run: demonstrations, seven rollouts, two of which one has no event, and a single
// one, so that all ranks but one make passes of nothing.
TEST_F(RanksTest, RanksThatHoldSlicesOfTheLayersLearnWhatOneLearns) {
  const std::string one = Train("one", 1, kSteps);
  EXPECT_GT(NormOf(one, kSteps), 1e-3) << one;
  for (const int size : {2, 4}) {
    const std::string run = std::to_string(size);
    ExpectSameNumbers(Train(run, size, kSteps, "none", "float32-sharded"), one);
    EXPECT_LT(Distance(FirstGradients(run), FirstGradients("one")), 1e-5) << size;
    EXPECT_LT(Distance(Weights(run, kSteps), Weights("one", kSteps)), 1e-5) << size;
    EXPECT_THAT(Held(run), testing::StartsWith("0 ")) << "all is gone but the last norm";
  }
  Train("tied", 1, kSteps, "none", "float32-tied");
  Train("tied-2", 2, kSteps, "none", "float32-tied-sharded");
  EXPECT_LT(Distance(FirstGradients("tied-2"), FirstGradients("tied")), 1e-5);
  EXPECT_LT(Distance(Weights("tied-2", kSteps), Weights("tied", kSteps)), 1e-5);
  Train("whole", 2, kSteps);
  EXPECT_THAT(Held("whole"), testing::Not(testing::StartsWith("0 "))) << "the control";
}

TEST_F(RanksTest, WhatGoesOnBesideTheComputationChangesNoBitAndHasOneOrderOnAllRanks) {
  for (const int size : {2, 4}) {
    const std::string run = std::to_string(size);
    Train(run, size, kSteps, "none", "float32-sharded");
    Train(run + "-waits", size, kSteps, "none", "float32-waits-sharded");
    EXPECT_EQ(Distance(Weights(run, kSteps), Weights(run + "-waits", kSteps)), 0) << size;
    const std::string begun = Begun(run, 0);
    EXPECT_THAT(begun, HasSubstr("reduce-scatter "));
    for (int rank = 1; rank < size; ++rank) EXPECT_EQ(Begun(run, rank), begun) << rank;
  }
}

TEST_F(RanksTest, CheckpointsThatAreWrittenBesideTheStepsAreThoseOfStepsThatWait) {
  for (const std::string dtype : {"float32", "float32-sharded"}) {
    Train(dtype, 2, kSteps, "none", dtype);
    const std::string beside = "float32-beside" + dtype.substr(7);
    Train(beside, 2, kSteps, "none", beside);
    for (int64_t step = 1; step <= kSteps; ++step) {
      EXPECT_EQ(Distance(Weights(beside, step), Weights(dtype, step)), 0) << step;
      EXPECT_EQ(Distance(Load(beside, step, "optimizer", ""), Load(dtype, step, "optimizer", "")),
                0)
          << step;
    }
  }
}

TEST_F(RanksTest, WithSlicesTooBothViewsAreLearntAndAnyRanksGoOn) {
  for (const char* way : {"dense", "d1", "d3"}) {
    const std::string views = way;
    ExpectSameNumbers(Train(views + "-2", 2, 2, views, "float32-sharded"),
                      Train(views, 1, 2, views));
    EXPECT_LT(Distance(Weights(views + "-2", 2), Weights(views, 2)), 1e-5) << views;
  }
  Train("one", 1, kSteps);
  Train("changed", 3, 1, "none", "float32-sharded");
  Train("changed", 2, 2);
  Train("changed", 2, 3, "none", "float32-sharded");
  Train("changed", 1, 4);
  EXPECT_LT(Distance(Weights("changed", kSteps), Weights("one", kSteps)), 1e-5);
}

TEST_F(RanksTest, WithSlicesMastersOfBf16AreThoseOfWholeWeights) {
  Train("whole", 2, 3, "none", "bfloat16");
  Train("slices", 2, 3, "none", "bfloat16-sharded");
  const auto masters = [this](const std::string& run) { return Load(run, 3, "optimizer", "w."); };
  const double step =
      Distance(Load("whole", 2, "optimizer", "w."), Load("whole", 3, "optimizer", "w."));
  EXPECT_LT(Distance(masters("slices"), masters("whole")), step / 2);
}

TEST_F(RanksTest, WithSlicesAnExceptionInAPassPartsTheRanksAndTheNextLifeGoesOn) {
  Train("calm", 2, 3, "none", "float32-sharded");
  RankProcesses ranks = Start("run", 2, 3, "throw:forward:1", "none", "float32-sharded");
  for (const auto& rank : ranks) {
    EXPECT_EQ(rank->AwaitEnd(kPatience), 1) << rank->Output();
    EXPECT_THAT(rank->Output(), HasSubstr("out of luck"));
  }
  EXPECT_THAT(ranks[0]->Output(), HasSubstr("rank 1"));
  ranks.clear();
  EXPECT_THAT(Train("run", 2, 3, "none", "float32-sharded"), testing::StartsWith("step 2 "));
  EXPECT_EQ(Distance(Weights("run", 3), Weights("calm", 3)), 0);
}

// Each rank rounds the gradients of its share to bf16 before they are summed in fp32; where one is
// near 0 Adam makes much of its sign, so masters are nearer than a step, and no more.
TEST_F(RanksTest, InBf16TwoRanksAndAChangeOfRanksGiveTheSameAsFarAsGradientsAreRounded) {
  const auto train = [this](const std::string& run, int size, int64_t last_step) {
    return Train(run, size, last_step, "none", "bfloat16");
  };
  const auto masters = [this](const std::string& run, int64_t step) {
    return Load(run, step, "optimizer", "w.");
  };
  train("one", 1, 3);
  train("two", 2, 3);
  train("changed", 2, 1);
  train("changed", 1, 2);
  train("changed", 3, 3);
  const double step = Distance(masters("one", 2), masters("one", 3));
  std::printf("bf16 gradients %.1e, masters %.1e and %.1e of a step's %.1e\n",
              Distance(FirstGradients("two"), FirstGradients("one")),
              Distance(masters("two", 3), masters("one", 3)),
              Distance(masters("changed", 3), masters("one", 3)), step);
  EXPECT_LT(Distance(FirstGradients("two"), FirstGradients("one")), 1e-2);
  EXPECT_LT(Distance(masters("two", 3), masters("one", 3)), step / 2);
  EXPECT_LT(Distance(masters("changed", 3), masters("one", 3)), step / 2);
}

TEST_F(RanksTest, MastersOfTwoRanksBecomeFp32WeightsThatAreWholeOnEach) {
  Train("two", 2, 1, "none", "bfloat16");
  fs::copy(root_ + "/two", root_ + "/one", fs::copy_options::recursive);
  Train("two", 2, 2);
  Train("one", 1, 3);
  EXPECT_LT(Distance(Weights("two", 2), Weights("one", 2)), 1e-5);
  EXPECT_GT(Distance(Weights("one", 3), Weights("one", 2)), 1e-4) << "the control: another step";
}

TEST_F(RanksTest, ARunGoesOnWithAnotherNumberOfRanks) {
  Train("one", 1, kSteps);
  Train("changed", 4, 1);
  Train("changed", 1, 2);
  Train("changed", 3, 3);
  Train("changed", 2, 4);
  EXPECT_LT(Distance(Weights("changed", kSteps), Weights("one", kSteps)), 1e-5);
  // Squares of gradients: twice their relative error.
  EXPECT_LT(
      Distance(Load("changed", kSteps, "optimizer", "v."), Load("one", kSteps, "optimizer", "v.")),
      1e-4);
}

TEST_F(RanksTest, AnExceptionOnOneRankIsTheAnswerOfAllAndTheSameBatchMayComeAgain) {
  Train("calm", 2, 3);
  RankProcesses ranks = Start("run", 2, 3, "throw:forward:1");
  for (const auto& rank : ranks) {
    EXPECT_EQ(rank->AwaitEnd(kPatience), 0) << rank->Output();
    EXPECT_THAT(rank->Output(), HasSubstr("INTERNAL: rank 1: step 2: out of luck"));
  }
  EXPECT_EQ(Distance(Weights("run", 3), Weights("calm", 3)), 0);
}

struct Struck {
  const char* fault;  // how, where and which rank: "kill:save:0"
  const char* dtype;
};
class FaultTest : public RanksTest, public ::testing::WithParamInterface<Struck> {
 protected:
  // The weights that an undisturbed run ends with.
  const Tensors& Calm() const {
    static std::map<std::string, Tensors> calm;
    const std::string dtype = GetParam().dtype;
    if (!calm.contains(dtype)) {
      Train("calm", 2, 3, "none", dtype);
      calm[dtype] = Weights("calm", 3);
    }
    return calm[dtype];
  }
};

TEST_P(FaultTest, NobodyHangsTheRankIsNamedAndTheRunGoesOnAsIfNothingHadHappened) {
  const std::string fault = GetParam().fault;
  const int struck = fault.back() - '0', other = 1 - struck;
  RankProcesses ranks = Start("run", 2, 3, fault, "none", GetParam().dtype);
  EXPECT_EQ(ranks[other]->AwaitEnd(kPatience), 1) << ranks[other]->Output();
  EXPECT_THAT(ranks[other]->Output(), HasSubstr("ABORTED: "));
  EXPECT_THAT(ranks[other]->Output(),
              HasSubstr(absl::StrFormat("rank %d of 2 does not answer", struck)));
  EXPECT_TRUE(fs::exists(Checkpoint("run", 1)));
  EXPECT_FALSE(fs::exists(Checkpoint("run", 2)));
  ranks.clear();  // as launch does
  EXPECT_THAT(Train("run", 2, 3, "none", GetParam().dtype), testing::StartsWith("step 2 "));
  EXPECT_EQ(Distance(Weights("run", 3), Calm()), 0);
}

std::string NameOf(const testing::TestParamInfo<Struck>& struck) {
  return absl::StrReplaceAll(struck.param.fault, {{":", "_"}});
}
INSTANTIATE_TEST_SUITE_P(
    InEachPhase, FaultTest,
    ::testing::Values(Struck{"kill:forward:1", "float32"}, Struck{"kill:backward:1", "float32"},
                      Struck{"kill:save:1", "float32"}, Struck{"stop:forward:1", "float32"},
                      Struck{"stop:backward:1", "float32"}, Struck{"stop:save:1", "float32"}),
    NameOf);
// Who writes what all ranks have in common, and tells the others. A rank that is stopped costs its
// timeout, so not each phase is tried again.
INSTANTIATE_TEST_SUITE_P(OfTheFirst, FaultTest,
                         ::testing::Values(Struck{"kill:forward:0", "float32"},
                                           Struck{"kill:backward:0", "float32"},
                                           Struck{"kill:save:0", "float32"},
                                           Struck{"stop:save:0", "float32"}),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(BesideTheSteps, FaultTest,
                         ::testing::Values(Struck{"kill:write:1", "float32-beside"},
                                           Struck{"stop:write:1", "float32-beside"}),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(WithSlices, FaultTest,
                         ::testing::Values(Struck{"kill:backward:1", "float32-sharded"},
                                           Struck{"stop:backward:1", "float32-sharded"},
                                           Struck{"kill:gather:1", "float32-sharded"},
                                           Struck{"stop:gather:1", "float32-sharded"},
                                           Struck{"kill:reduce:1", "float32-sharded"},
                                           Struck{"kill:save:1", "float32-sharded"}),
                         NameOf);

}  // namespace
}  // namespace palimpsest::trainer
