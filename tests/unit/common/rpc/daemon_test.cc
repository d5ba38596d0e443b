#include "common/rpc/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::CaptureStdout;
using ::testing::internal::GetCapturedStderr;
using ::testing::internal::GetCapturedStdout;

struct EnvConfig {
  int workers = 2;
};
struct DaemonConfig {
  EnvConfig env;
};
void Bind(Binder& b, EnvConfig& c) { b.Field("workers", c.workers, "threads"); }
void Bind(Binder& b, DaemonConfig& c) { b.Section("env", c.env, "tasks and scores"); }
absl::Status Validate(const DaemonConfig& c) {
  if (c.env.workers > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("env.workers=%d is below 1", c.env.workers));
}

class DaemonMainTest : public ::testing::Test {
 protected:
  DaemonMainTest() { std::ofstream(file_) << "env: {workers: 3}\ntrainer: {steps: 9}\n"; }

  int Main(std::vector<const char*> words) {
    words.insert(words.begin(), "palimpsest-env");
    CaptureStdout();
    CaptureStderr();
    const int code =
        DaemonMain<DaemonConfig>(static_cast<int>(words.size()), words.data(), "palimpsest-env",
                                 {"trainer"}, [this](const DaemonConfig& config, StopSignal& stop) {
                                   ran_with_ = config.env.workers;
                                   stopped_ = stop.Requested();
                                   return result_;
                                 });
    out_ = GetCapturedStdout();
    err_ = GetCapturedStderr();
    return code;
  }

  const std::string file_ = ::testing::TempDir() + "/daemon_test_run.yaml";
  absl::Status result_;
  int ran_with_ = 0;
  bool stopped_ = true;
  std::string out_, err_;
};

TEST_F(DaemonMainTest, RunsWithTheConfigOfFileAndOverrides) {
  EXPECT_EQ(Main({"--config", file_.c_str()}), kExitOk);
  EXPECT_EQ(ran_with_, 3);
  EXPECT_FALSE(stopped_);
  EXPECT_EQ(Main({"--config", file_.c_str(), "--set", "env.workers=5"}), kExitOk);
  EXPECT_EQ(ran_with_, 5);
}

TEST_F(DaemonMainTest, WrongFlagsAndConfigsEndWithTwoAndDoNotRun) {
  EXPECT_EQ(Main({}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("palimpsest-env: --config FILE is missing"));
  EXPECT_EQ(Main({"--config", file_.c_str(), "--set", "env.worker=5"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("did you mean \"workers\"?"));
  EXPECT_EQ(Main({"--config", file_.c_str(), "--set", "env.workers=0"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--set env.workers=0: env.workers=0 is below 1"));
  std::ofstream(file_) << "trainer: {steps: 9}\nenv:\n  workers: -1\n";
  EXPECT_EQ(Main({"--config", file_.c_str()}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("run.yaml:3: env.workers=-1 is below 1"));
  EXPECT_EQ(Main({"--check-config", "--config", file_.c_str(), "--set", "env.workers=0"}),
            kExitUsage);
  EXPECT_EQ(ran_with_, 0);
}

TEST_F(DaemonMainTest, ActionsPrintAndDoNotRun) {
  EXPECT_EQ(Main({"--check-config", "--config", file_.c_str()}), kExitOk);
  EXPECT_EQ(out_ + err_, "");
  EXPECT_EQ(Main({"--print-config", "--config", file_.c_str()}), kExitOk);
  EXPECT_EQ(out_, "# tasks and scores\nenv:\n  workers: 3  # threads\n");
  EXPECT_EQ(Main({"--version"}), kExitOk);
  EXPECT_EQ(out_, "palimpsest-env " + std::string(Version()) + "\n");
  EXPECT_EQ(Main({"--help"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("usage: palimpsest-env --config FILE"));
  EXPECT_EQ(ran_with_, 0);
}

TEST_F(DaemonMainTest, AFailedRunEndsWithOneAndALogLine) {
  std::string line;
  ScopedLogSink sink([&](const std::string& text) { line = text; });
  result_ = absl::InternalError("broken");
  EXPECT_EQ(Main({"--config", file_.c_str()}), kExitFailed);
  EXPECT_THAT(line, HasSubstr("INTERNAL: broken"));
}

TEST_F(DaemonMainTest, AStartThatWouldFailAgainEndsWithThreeAndSaysOnlyWhy) {
  std::string line;
  ScopedLogSink sink([&](const std::string& text) { line = text; });
  for (const auto& refusal :
       {absl::NotFoundError("no model"), absl::InvalidArgumentError("no model"),
        absl::FailedPreconditionError("no model"), absl::UnimplementedError("no model")}) {
    result_ = OfStart(refusal);
    EXPECT_EQ(Main({"--config", file_.c_str()}), kExitFailsAgain);
    EXPECT_THAT(line, HasSubstr("no model\"}"));
    result_ = OfStart(absl::StatusOr<int>(refusal)).status();
    EXPECT_EQ(Main({"--config", file_.c_str()}), kExitFailsAgain);
    result_ = refusal;  // while it ran: it may pass
    EXPECT_EQ(Main({"--config", file_.c_str()}), kExitFailed);
  }
  result_ = OfStart(absl::UnavailableError("the port is taken"));
  EXPECT_EQ(Main({"--config", file_.c_str()}), kExitFailed);
  EXPECT_TRUE(OfStart(absl::OkStatus()).ok());
  EXPECT_EQ(*OfStart(absl::StatusOr<int>(7)), 7);
}

}  // namespace
}  // namespace palimpsest
