#include "tools/launch/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "absl/strings/str_join.h"

namespace palimpsest::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// This machine, with some of its daemons on a node that fails.
class FailingPlace final : public Place {
 public:
  std::vector<std::string> Command(const DaemonSpec& daemon) const override { return daemon.argv; }
  int stop_signal() const override { return SIGUSR1; }
  int kill_signal() const override { return SIGKILL; }
  bool Stands(const DaemonSpec& daemon) const override { return daemon.node != 1; }
};

constexpr char kServe[] = "trap 'echo bye; exit 0' TERM USR1; while :; do sleep 0.05; done";

// Real processes: small shell scripts that behave as a daemon might.
class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() : folder_(::testing::TempDir() + "supervisor-" + std::to_string(getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~SupervisorTest() override { std::filesystem::remove_all(folder_); }

  DaemonSpec Script(const std::string& name, const std::string& body, bool leads = false) {
    return {name,
            {"/bin/sh", "-c", "cd " + folder_ + "; " + body},
            folder_ + "/" + name + ".log",
            leads};
  }
  // A replica on the node that fails.
  DaemonSpec Doomed(const std::string& name, const std::string& role, const std::string& body) {
    DaemonSpec spec = Script(name, body);
    spec.role = role;
    spec.node = 1;
    return spec;
  }
  DaemonSpec Replica(const std::string& name, const std::string& role) {
    DaemonSpec spec = Script(name, kServe);
    spec.role = role;
    return spec;
  }
  // A rank of the trainer.
  DaemonSpec Rank(int rank, const std::string& body) {
    DaemonSpec spec = Script("trainer-" + std::to_string(rank), body);
    spec.role = spec.team = "trainer";
    return spec;
  }
  RunEnding Run(const std::vector<DaemonSpec>& daemons) { return Run(daemons, LocalPlace()); }
  RunEnding Run(const std::vector<DaemonSpec>& daemons, const Place& place) {
    return Supervise(
        daemons, limits_, place, stop_, SystemClock(),
        [this](const std::string& line) { said_.push_back(line); }, holds_);
  }
  std::string Said() const { return absl::StrJoin(said_, "\n"); }
  std::string File(const std::string& name) const {
    std::ifstream file(folder_ + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const std::string folder_;
  std::function<absl::Status()> holds_ = [] { return absl::OkStatus(); };
  RestartLimits limits_{.per_daemon = 2,
                        .first_backoff = absl::Milliseconds(10),
                        .stop_grace = absl::Milliseconds(500),
                        .team_grace = absl::Milliseconds(500)};
  StopSignal stop_;
  std::vector<std::string> said_;
};

TEST_F(SupervisorTest, TheRunEndsWellWithItsLeaderAndTheOthersAreStopped) {
  const RunEnding ending = Run({Script("env-0", kServe), Script("lead-0", "sleep 0.2", true)});
  EXPECT_EQ(ending.exit_code, 0);
  EXPECT_EQ(ending.failure, "");
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_EQ(File("env-0.log"), "bye\n");
}

TEST_F(SupervisorTest, ADaemonThatDiesIsStartedAgain) {
  const RunEnding ending = Run(
      {Script("env-0", "echo x >> lives; test $(wc -l < lives) = 2 || kill -9 $$; exec " +
                           std::string("sleep 60")),
       Script("lead-0", "while [ \"$(cat lives 2>/dev/null | wc -l)\" != 2 ]; do sleep 0.05; done",
              true)});
  EXPECT_EQ(ending.exit_code, 0);
  EXPECT_EQ(ending.restarts, 1);
  EXPECT_THAT(Said(), HasSubstr("env-0 ended: killed by signal 9"));
}

TEST_F(SupervisorTest, WhoCannotBeKeptAliveFailsTheRunByName) {
  const RunEnding ending =
      Run({Script("env-0", "echo no luck; exit 1"), Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.exit_code, 1);
  EXPECT_EQ(ending.restarts, 2);
  EXPECT_THAT(ending.failure, HasSubstr("env-0 failed: exit code 1, after 2 restarts"));
  EXPECT_THAT(ending.failure, HasSubstr("env-0.log"));
  EXPECT_EQ(ending.cause, "no luck");
  EXPECT_EQ(ending.log_file, folder_ + "/env-0.log");
  EXPECT_EQ(File("env-0.log"), "no luck\nno luck\nno luck\n");
  EXPECT_EQ(File("lead-0.log"), "bye\n");
}

TEST_F(SupervisorTest, AConfigurationThatIsRefusedIsNotTriedAgain) {
  const RunEnding ending = Run({Script("env-0", "exit 2"), Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.exit_code, 2);
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_THAT(ending.failure, HasSubstr("env-0"));
}

TEST_F(SupervisorTest, AFailureThatWouldComeAgainEndsTheRunAtOnceWithTheDaemonsOwnWords) {
  const std::string line =
      R"({"msg": "daemon failed", "status": "NOT_FOUND: no config.json in /models/x"})";
  const RunEnding ending =
      Run({Script("trainer-0", "echo '" + line + "'; exit 3"), Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.exit_code, 3);
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_EQ(ending.cause, "NOT_FOUND: no config.json in /models/x");
  EXPECT_THAT(ending.failure, HasSubstr("trainer-0 failed: exit code 3"));
}

TEST_F(SupervisorTest, WhatASignalKilledHasNoLastWords) {
  const RunEnding ending =
      Run({Script("env-0", "test -e once || { touch once; echo first; exit 1; }; kill -9 $$"),
           Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.restarts, 2);
  EXPECT_EQ(ending.cause, "");
}

TEST_F(SupervisorTest, NorHasWhatSrunSaysASignalKilled) {
  const RunEnding ending =
      Run({Script("env-0", "echo first; exit 137"), Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.restarts, 2);
  EXPECT_EQ(ending.cause, "");
}

TEST_F(SupervisorTest, AProgramThatIsNotThereIsAFailureWithItsPath) {
  DaemonSpec missing = Script("env-0", "");
  missing.argv[0] = folder_ + "/no-such-program";
  const RunEnding ending = Run({missing, Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.exit_code, 1);
  EXPECT_THAT(ending.failure, HasSubstr("no-such-program"));
}

TEST_F(SupervisorTest, ASignalStopsAllAndTheDeafAreKilled) {
  std::thread later([] {
    usleep(300'000);
    kill(getpid(), SIGTERM);
  });
  const RunEnding ending = Run({Script("deaf-0", "trap '' TERM; while :; do sleep 0.05; done"),
                                Script("lead-0", kServe, true)});
  later.join();
  EXPECT_EQ(ending.exit_code, 128 + SIGTERM);
  EXPECT_EQ(File("lead-0.log"), "bye\n");
  EXPECT_THAT(Said(), HasSubstr("deaf-0 did not stop"));
}

TEST_F(SupervisorTest, ARunThatIsAnothersIsLeftAtOnce) {
  limits_.stop_grace = absl::Minutes(1);
  holds_ = [this] {
    return access((folder_ + "/begun").c_str(), F_OK) == 0 ? absl::AbortedError("taken by node7") : absl::OkStatus();
  };
  const absl::Time begin = SystemClock().Now();
  const RunEnding ending =
      Run({Script("env-0", kServe), Script("lead-0", std::string("touch begun; ") + kServe, true)});
  EXPECT_LT(SystemClock().Now() - begin, absl::Seconds(20));
  EXPECT_EQ(ending.exit_code, 1);
  EXPECT_EQ(ending.failure, "taken by node7");
  EXPECT_EQ(File("env-0.log"), "") << "killed, not asked: nothing may be written any more";
}

TEST_F(SupervisorTest, ADeafLeaderLeavesTheOthersTimeToSave) {
  limits_.stop_grace = absl::Seconds(4);
  std::thread later([] {
    usleep(300'000);
    kill(getpid(), SIGUSR1);
  });
  const RunEnding ending =
      Run({Script("trainer-0",
                  "trap 'sleep 0.1; echo saved; exit 0' USR1; while :; do sleep 0.05; done"),
           Script("lead-0", "trap '' USR1; while :; do sleep 0.05; done", true)},
          FailingPlace());
  later.join();
  EXPECT_EQ(ending.exit_code, kExitLater);
  EXPECT_EQ(File("trainer-0.log"), "saved\n");
  EXPECT_THAT(Said(), HasSubstr("lead-0 did not stop within 3s and is killed"));
}

TEST_F(SupervisorTest, AWarningStopsAllToGoOnLater) {
  std::thread later([] {
    usleep(300'000);
    kill(getpid(), SIGUSR1);
  });
  const RunEnding ending = Run({Script("lead-0", kServe, true)}, FailingPlace());
  later.join();
  EXPECT_EQ(ending.exit_code, kExitLater);
  EXPECT_EQ(ending.failure, "");
  EXPECT_EQ(File("lead-0.log"), "bye\n");
}

TEST_F(SupervisorTest, ALostReplicaShrinksTheFleetAndItsAddressGoes) {
  DaemonSpec lost = Doomed("inference-1", "inference", "touch lost; exit 1");
  lost.address_file = folder_ + "/address";
  std::ofstream(lost.address_file) << "node1:1";
  const RunEnding ending =
      Run({Replica("inference-0", "inference"), lost,
           Script("lead-0", "while [ -e address ]; do sleep 0.05; done; sleep 0.3", true)},
          FailingPlace());
  EXPECT_EQ(ending.exit_code, 0);
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_THAT(ending.lost, ElementsAre("inference-1"));
  EXPECT_EQ(File("inference-0.log"), "bye\n");
}

TEST_F(SupervisorTest, AReplicaThatCannotBeKeptAliveIsLostToo) {
  const RunEnding ending = Run(
      {Replica("inference-0", "inference"),
       [&] {
         DaemonSpec weak = Replica("inference-1", "inference");
         weak.argv = {"/bin/sh", "-c", "echo x >> " + folder_ + "/lives; exit 1"};
         return weak;
       }(),
       Script("lead-0",
              "while [ \"$(cat lives 2>/dev/null | wc -l)\" != 3 ]; do sleep 0.05; done; sleep 0.3",
              true)});
  EXPECT_EQ(ending.exit_code, 0);
  EXPECT_THAT(ending.lost, ElementsAre("inference-1"));
}

TEST_F(SupervisorTest, AReplicaThatWouldFailAgainIsLostAtOnce) {
  DaemonSpec hopeless = Replica("inference-1", "inference");
  hopeless.argv = {"/bin/sh", "-c", "touch " + folder_ + "/gone; exit 3"};
  const RunEnding ending =
      Run({Replica("inference-0", "inference"), hopeless,
           Script("lead-0", "while ! [ -e gone ]; do sleep 0.05; done; sleep 0.3", true)});
  EXPECT_EQ(ending.exit_code, 0);
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_THAT(ending.lost, ElementsAre("inference-1"));
}

TEST_F(SupervisorTest, TheLastOfItsRoleIsNotDispensable) {
  const RunEnding ending =
      Run({Doomed("inference-0", "inference", "exit 1"),
           Doomed("inference-1", "inference", "exit 1"), Script("lead-0", kServe, true)},
          FailingPlace());
  EXPECT_EQ(ending.exit_code, kExitLater);
  EXPECT_THAT(ending.failure, HasSubstr("its node is lost"));
}

TEST_F(SupervisorTest, AnOrchestratorLostWithItsNodeHasNotEndedWell) {
  DaemonSpec lead = Doomed("lead-0", "orchestrator", "exit 0");
  lead.leads = true;
  EXPECT_EQ(Run({lead}, FailingPlace()).exit_code, kExitLater);
}

TEST_F(SupervisorTest, ALostTrainerStopsTheRunToGoOnLater) {
  const RunEnding ending = Run(
      {Doomed("trainer-0", "trainer", "exit 1"), Script("lead-0", kServe, true)}, FailingPlace());
  EXPECT_EQ(ending.exit_code, kExitLater);
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_THAT(ending.failure, HasSubstr("trainer-0 failed: exit code 1, its node is lost"));
  EXPECT_EQ(File("lead-0.log"), "bye\n");
}

TEST_F(SupervisorTest, WhenOneOfATeamEndsAllEndAndAreStartedAgainAsOne) {
  // Rank 1 is killed in its first life; 0 notices by itself, 2 would hang for ever.
  const std::string live = "echo x >> lives-$R; exec sleep 60";
  const RunEnding ending =
      Run({Rank(0,
                "R=0; echo x >> lives-0; test -e gone && exec sleep 60; while ! [ -e gone ]; do "
                "sleep 0.05; done; sleep 0.4; echo misses rank 1; exit 1"),
           Rank(1, "R=1; test -e gone || { touch gone; kill -9 $$; }; " + live),
           Rank(2, "R=2; trap '' TERM; " + live),
           Script("lead-0",
                  "while [ \"$(cat lives-2 2>/dev/null | wc -l)\" != 2 ]; do sleep 0.05; "
                  "done; sleep 0.3",
                  true)});
  EXPECT_EQ(ending.exit_code, 0);
  EXPECT_EQ(ending.restarts, 1);
  EXPECT_EQ(File("lives-0"), "x\nx\n");
  EXPECT_EQ(File("lives-1"), "x\n");
  EXPECT_EQ(File("lives-2"), "x\nx\n");
  EXPECT_THAT(Said(), HasSubstr("trainer-1 ended: killed by signal 9 (Killed); restart 1 of 2 of "
                                "all its ranks"));
  EXPECT_THAT(Said(), HasSubstr("trainer-2 did not stop within 500ms and is killed"));
}

TEST_F(SupervisorTest, ATeamInWhichOneWouldFailAgainIsNotTriedAgain) {
  const RunEnding ending =
      Run({Rank(0, "while ! [ -e gone ]; do sleep 0.01; done; exit 1"),
           Rank(1, "trap '' TERM; touch gone; sleep 0.3; echo no such model; exit 3"),
           Script("lead-0", kServe, true)});
  EXPECT_EQ(ending.exit_code, 3);
  EXPECT_EQ(ending.restarts, 0);
  EXPECT_THAT(ending.failure, HasSubstr("trainer-1 failed: exit code 3"));
  EXPECT_EQ(ending.cause, "no such model");
}

}  // namespace
}  // namespace palimpsest::tools
