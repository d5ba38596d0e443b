#include "tools/launch/daemon_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class DaemonLogTest : public ::testing::Test {
 protected:
  std::string WordsOf(const std::string& log) {
    weights::Write(file_, log);
    return LastWords(file_);
  }
  const weights::ScratchFolder scratch_;
  const std::string file_ = scratch_ / "daemon.log";
};

TEST_F(DaemonLogTest, LastWordsAreTheReasonOfADaemonThatFailed) {
  EXPECT_EQ(WordsOf("{\"msg\": \"listening\"}\n"
                    "{\"msg\": \"daemon failed\", \"status\": \"NOT_FOUND: x\"}\n"),
            "NOT_FOUND: x");
  EXPECT_EQ(WordsOf("{}\nrun.yaml:3: trainer.x is unknown\n"), "run.yaml:3: trainer.x is unknown");
}

TEST_F(DaemonLogTest, AnythingElseIsNoReason) {
  EXPECT_EQ(WordsOf("{\"msg\": \"daemon failed\", \"status\": \"x\"}\n{\"msg\": \"listening\"}\n"),
            "");
  EXPECT_EQ(WordsOf("{\"msg\": 3, \"status\": \"x\"}\n"), "");
  EXPECT_EQ(WordsOf(""), "");
  EXPECT_EQ(LastWords(scratch_ / "no-such.log"), "");
}

TEST_F(DaemonLogTest, WhatSlurmWritesBehindThemIsNotTheDaemons) {
  const std::string slurm =
      "slurmstepd: error: *** STEP 7.3 ON node1 CANCELLED AT 2026-11-21T10:00:00 ***\n"
      "srun: error: node1: task 0: Exited with exit code 3\n";
  EXPECT_EQ(WordsOf("{\"msg\": \"daemon failed\", \"status\": \"x\"}\n" + slurm), "x");
  EXPECT_EQ(WordsOf(slurm), "");
}

TEST_F(DaemonLogTest, OfAVeryLongLogOnlyTheEndIsRead) {
  weights::Write(file_, std::string(1 << 20, 'x') + "\nsecond\nthird\n");
  EXPECT_THAT(LastLines(file_, 15), ElementsAre("second", "third"));
  EXPECT_THAT(LastLines(file_, 1), ElementsAre("third"));
  EXPECT_THAT(LastLines(scratch_ / "no-such.log", 15), IsEmpty());
}

}  // namespace
}  // namespace palimpsest::tools
