#include "tools/launch/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/launch/slurm_place.h"

namespace palimpsest::tools {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(PlacementTest, TheDefaultIsOneOfEachOnTheFirstNode) {
  const PlacementSection c;
  EXPECT_TRUE(Validate(c).ok());
  EXPECT_TRUE(ValidateNodes(c, 1).ok());
  EXPECT_EQ(c.Of("trainer"), RolePlacement());
  EXPECT_EQ(c.Of("router").replicas, 0);  // unless it is asked for
}

TEST(PlacementTest, WhatMakesNoSenseIsRefusedByNameAndValue) {
  const auto refusal = [](auto change) {
    PlacementSection c;
    change(c);
    return std::string(Validate(c).message());
  };
  EXPECT_EQ(refusal([](auto& c) { c.inference.replicas = 0; }),
            "placement.inference.replicas=0 is below 1");
  EXPECT_EQ(refusal([](auto& c) { c.trainer.replicas = 2; }),
            "placement.trainer.replicas=2 is not 1");
  EXPECT_EQ(refusal([](auto& c) { c.router.replicas = 2; }),
            "placement.router.replicas=2 is neither 0 nor 1");
  EXPECT_EQ(refusal([](auto& c) { c.router.replicas = 1; }), "");
  EXPECT_EQ(refusal([](auto& c) { c.trainer.ranks = 4; }), "");
  EXPECT_EQ(refusal([](auto& c) { c.trainer.ranks = 0; }), "placement.trainer.ranks=0 is below 1");
  EXPECT_EQ(refusal([](auto& c) { c.env.ranks = 2; }), "placement.env.ranks=2 is not 1");
  EXPECT_EQ(refusal([](auto& c) { c.env.nodes = {}; }), "placement.env.nodes is empty");
  EXPECT_EQ(refusal([](auto& c) { c.env.nodes = {0, -1}; }), "placement.env.nodes=-1 is negative");
  EXPECT_EQ(refusal([](auto& c) { c.trainer.gpus = -1; }), "placement.trainer.gpus=-1 is negative");
  EXPECT_EQ(refusal([](auto& c) { c.stop_grace = -absl::Seconds(1); }),
            "placement.stop_grace=-1s is not > 0");
  EXPECT_EQ(refusal([](auto& c) { c.stop_grace = absl::ZeroDuration(); }),
            "placement.stop_grace=0 is not > 0");
}

TEST(PlacementTest, ANodeBeyondTheJobIsRefused) {
  PlacementSection c;
  c.inference.nodes = {0, 2};
  EXPECT_TRUE(ValidateNodes(c, 3).ok());
  EXPECT_THAT(std::string(ValidateNodes(c, 2).message()),
              HasSubstr("placement.inference.nodes=2: the job has 2 nodes"));
}

TEST(PlacementTest, OnOneMachineWhatOnlySlurmCanKeepIsRefused) {
  const auto refusal = [](auto change) {
    PlacementSection c;
    change(c);
    return std::string(ValidateWithoutSlurm(c).message());
  };
  EXPECT_EQ(refusal([](auto& c) {
              c.inference.replicas = 4;
              c.trainer.ranks = 2;
              c.env.nodes = {0, 0};
            }),
            "");
  const std::string why = " is for a Slurm job, and --slurm is not given";
  EXPECT_EQ(refusal([](auto& c) {
              c.inference.nodes = {0, 1};
            }),
            "placement.inference.nodes=1" + why);
  EXPECT_EQ(refusal([](auto& c) { c.trainer.cpus = 8; }), "placement.trainer.cpus=8" + why);
  EXPECT_EQ(refusal([](auto& c) { c.inference.gpus = 1; }), "placement.inference.gpus=1" + why);
}

class SlurmPlaceTest : public ::testing::Test {
 protected:
  const SlurmPlace place_{"42", {"a", "b"}};
  DaemonSpec daemon_{.name = "trainer-0", .argv = {"/bin/trainer", "--config", "x"}, .node = 1};
};

TEST_F(SlurmPlaceTest, ADaemonIsAStepOfOneTaskOnItsNode) {
  const std::vector<std::string> command = place_.Command(daemon_);
  EXPECT_THAT(command, Contains("--nodelist=b"));
  EXPECT_THAT(command, Contains("--ntasks=1"));
  EXPECT_THAT(command, Contains("--job-name=trainer-0"));
  EXPECT_EQ(std::vector<std::string>(command.end() - 3, command.end()), daemon_.argv);
}

TEST_F(SlurmPlaceTest, WithoutItsOwnCoresItSharesTheNodeAndGetsNoGpu) {
  const std::vector<std::string> command = place_.Command(daemon_);
  EXPECT_THAT(command, Contains("--overlap"));
  EXPECT_THAT(command, Contains("--gpus-per-node=0"));
  EXPECT_THAT(command, Not(Contains("--exact")));
}

TEST_F(SlurmPlaceTest, WithItsOwnCoresOrGpusNobodySharesThem) {
  daemon_.cpus = 8;
  daemon_.gpus = 4;
  const std::vector<std::string> command = place_.Command(daemon_);
  EXPECT_THAT(command, Contains("--exact"));
  EXPECT_THAT(command, Contains("--cpus-per-task=8"));
  EXPECT_THAT(command, Contains("--gpus-per-node=4"));
  EXPECT_THAT(command, Not(Contains("--overlap")));
}

}  // namespace
}  // namespace palimpsest::tools
