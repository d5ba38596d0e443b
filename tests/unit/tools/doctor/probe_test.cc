#include "tools/doctor/probe.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>

#include "common/base/unique_fd.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::tools {
namespace {

using testing::HasSubstr;

std::vector<Finding> Probe(const std::string& folder) {
  return ProbeFolder({.folder = folder}, absl::Minutes(5));
}

TEST(FolderProbeTest, AGoodFolderPassesAndNothingIsLeftThere) {
  const weights::ScratchFolder scratch;
  std::vector<std::string> names;
  for (const Finding& finding : Probe(scratch / "runs/of/today")) {
    names.push_back(finding.name);
    EXPECT_NE(finding.verdict, Verdict::kFail) << finding.name << ": " << finding.saw;
  }
  EXPECT_THAT(names, testing::ElementsAre("writable", "fsync", "rename", "visibility", "clock"));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

// /proc takes no folder from anybody, root or not.
TEST(FolderProbeTest, AFolderThatCannotBeWrittenIsNamed) {
  const std::vector<Finding> findings = Probe("/proc/runs");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].name, "writable");
  EXPECT_EQ(findings[0].verdict, Verdict::kFail);
  EXPECT_THAT(findings[0].todo, HasSubstr("run.folder=/proc/runs"));
}

TEST(FolderProbeTest, AFileInTheWayIsNamed) {
  const weights::ScratchFolder scratch;
  weights::Write(scratch / "runs", "a file");
  const std::vector<Finding> findings = Probe(scratch / "runs/mine");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_THAT(findings[0].saw, HasSubstr("runs"));
  EXPECT_EQ(findings[0].verdict, Verdict::kFail);
}

TEST(FolderProbeTest, SpaceIsThatOfTheNearestFolder) {
  const auto space = MeasureSpace(testing::TempDir() + "not/yet/there");
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_GT(space->bytes, 0);
  EXPECT_GT(space->inodes, 0);
}

TEST(MachineProbeTest, AMachineThatRunsTestsHasAllOfIt) {
  const Machine machine = MeasureMachine();
  EXPECT_GT(machine.open_files, 10);
  EXPECT_GT(machine.processes, 0);
  EXPECT_GT(machine.memory_bytes, int64_t{64} << 20);
  EXPECT_LT(machine.memory_bytes, int64_t{1} << 50);
  EXPECT_GE(machine.cores, 1);
}

class PortProbeTest : public testing::Test {
 protected:
  // A free port of the loopback, listened to or not.
  int Port(bool taken) {
    socket_ = UniqueFd(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const at = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(socket_.get(), at, size), 0);
    EXPECT_EQ(listen(socket_.get(), 1), 0);
    EXPECT_EQ(getsockname(socket_.get(), at, &size), 0);
    if (!taken) socket_ = UniqueFd();
    return ntohs(address.sin_port);
  }
  UniqueFd socket_;
};

TEST_F(PortProbeTest, ATakenPortIsNamedByItsKey) {
  const auto findings = ProbePorts({{"trainer.listen", {"127.0.0.1", Port(true)}}});
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].name, "port trainer.listen");
  EXPECT_EQ(findings[0].verdict, Verdict::kFail);
  EXPECT_THAT(findings[0].todo, HasSubstr("set trainer.listen"));
}

TEST_F(PortProbeTest, AFreePortPassesOnceAndFailsForASecondDaemon) {
  const HostPort at{"127.0.0.1", Port(false)};
  const auto findings = ProbePorts({{"env.listen", at}, {"env.metrics", at}});
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].verdict, Verdict::kPass) << findings[0].saw;
  EXPECT_EQ(findings[1].verdict, Verdict::kFail);
  EXPECT_THAT(findings[1].saw, HasSubstr("asked for by env.listen"));
}

// Linux has all of 127.0.0.0/8 at hand.
TEST_F(PortProbeTest, OnePortOfTwoAddressesIsFreeForBothAndAWildcardHasAll) {
  const int port = Port(false);
  const auto two = ProbePorts(
      {{"inference.listen", {"127.0.0.1", port}}, {"trainer.listen", {"127.0.0.2", port}}});
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].verdict, Verdict::kPass) << two[0].saw;
  EXPECT_EQ(two[1].verdict, Verdict::kPass) << two[1].saw;
  const auto all = ProbePorts({{"inference.listen", {"127.0.0.1", port}},
                               {"trainer.listen", {"127.0.0.2", port}},
                               {"env.listen", {"0.0.0.0", port}}});
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[2].verdict, Verdict::kFail);
  EXPECT_THAT(all[2].saw, HasSubstr("asked for by inference.listen, too"));
}

TEST_F(PortProbeTest, APlaceIsTakenByTheFirstOfSeveralReplicas) {
  const HostPort at{"127.0.0.1", Port(false)};
  const auto findings = ProbePorts({{"inference.listen", at, 2}});
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].verdict, Verdict::kFail);
  EXPECT_THAT(findings[0].saw, HasSubstr("asked for by 2 daemons"));
  EXPECT_THAT(findings[0].todo, HasSubstr("set inference.listen to port 0"));
}

}  // namespace
}  // namespace palimpsest::tools
