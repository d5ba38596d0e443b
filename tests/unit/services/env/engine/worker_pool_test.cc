#include "services/env/engine/worker_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"

namespace palimpsest::env {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

// Real processes of echo_worker.py.
class WorkerPoolTest : public ::testing::Test {
 protected:
  WorkerPoolTest()
      : sink_([this](const std::string& line) {
          absl::MutexLock lock(&mu_);
          lines_.push_back(line);
        }) {
    config_.command = {.name = "echo",
                       .argv = {PALIMPSEST_TEST_PYTHON, PALIMPSEST_ECHO_WORKER},
                       .environment = {"PATH=/usr/local/bin:/usr/bin:/bin"}};
    config_.call_timeout = absl::Seconds(30);
    config_.first_backoff = absl::Milliseconds(10);
  }
  ~WorkerPoolTest() override { worker_.reset(); }

  static WorkerCall Question(const std::string& text, std::shared_ptr<std::string> answer) {
    return {text, [answer](const std::string& given) {
              *answer = given;
              return absl::OkStatus();
            }};
  }
  absl::Status Start() {
    // Accepted on threads of several processes at once.
    const WorkerCall greeting{"say hello", [](const std::string&) { return absl::OkStatus(); }};
    absl::StatusOr<std::unique_ptr<Worker>> started =
        WorkerPool::Start(config_, greeting, WorkerMetrics(metrics_), SystemClock());
    if (!started.ok()) return started.status();
    worker_ = *std::move(started);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Ask(const std::string& text,
                                  absl::Duration wait = absl::Seconds(30)) {
    const auto answer = std::make_shared<std::string>();
    const absl::Status status = worker_->Call(Question(text, answer), absl::Now() + wait);
    if (!status.ok()) return status;
    return *answer;
  }
  // The call is lost, says why, and the next one is answered as if nothing had been.
  void ExpectOneCallLost(const std::string& text, const std::string& why) {
    const absl::StatusOr<std::string> answer = Ask(text);
    EXPECT_TRUE(absl::IsAborted(answer.status())) << answer.status();
    EXPECT_THAT(std::string(answer.status().message()), HasSubstr(why));
    EXPECT_THAT(std::string(answer.status().message()), HasSubstr("worker echo"));
    EXPECT_EQ(Ask("say again").value(), "again");
  }
  static std::string TemporaryFile() {
    return std::filesystem::temp_directory_path() /
           absl::StrFormat("worker_pool_test.%d", getpid());
  }
  static bool Lives(const std::string& pid) {
    int number = 0;
    return absl::SimpleAtoi(pid, &number) && kill(number, 0) == 0;
  }
  std::vector<std::string> lines() {
    absl::MutexLock lock(&mu_);
    return lines_;
  }

  absl::Mutex mu_;
  std::vector<std::string> lines_;
  ScopedLogSink sink_;
  Metrics metrics_{"env", "0", SystemClock()};
  WorkerConfig config_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(WorkerPoolTest, FramesOfAnyLengthComeBackAsTheyWere) {
  ASSERT_TRUE(Start().ok());
  for (const size_t size : {0, 1, 65536, 5'000'000}) {
    const std::string text(size, 'x');
    EXPECT_EQ(Ask("say " + text).value(), text);
  }
}

TEST_F(WorkerPoolTest, ADeathCostsOneCallAndTellsTheLastLine) {
  ASSERT_TRUE(Start().ok());
  ExpectOneCallLost("die", "exit code 7, last line: \"these are my last words\"");
}

TEST_F(WorkerPoolTest, AHangIsEndedByTheTimeLimit) {
  config_.call_timeout = absl::Milliseconds(400);
  ASSERT_TRUE(Start().ok());
  const std::string pid = Ask("pid").value();
  ExpectOneCallLost("hang", "it gave no answer in 400ms");
  EXPECT_FALSE(Lives(pid));
}

TEST_F(WorkerPoolTest, AHalfFrameIsAHang) {
  config_.call_timeout = absl::Milliseconds(400);
  ASSERT_TRUE(Start().ok());
  ExpectOneCallLost("truncate", "it gave no answer in 400ms");
}

TEST_F(WorkerPoolTest, RubbishInTheProtocolCostsOneCall) {
  ASSERT_TRUE(Start().ok());
  ExpectOneCallLost("oversize", "a frame of 2147483648 bytes");
}

TEST_F(WorkerPoolTest, AnAnswerTooManyIsNeverTakenForTheNextOne) {
  ASSERT_TRUE(Start().ok());
  Ask("twice x").status().IgnoreError();  // an answer or a loss: it depends on what is read at once
  const absl::Status next =
      worker_->Call({"say next",
                     [](const std::string& answer) {
                       return answer == "next" ? absl::OkStatus() : absl::DataLossError("not mine");
                     }},
                    absl::InfiniteFuture());
  EXPECT_TRUE(next.ok() || absl::IsAborted(next)) << next;
  EXPECT_EQ(Ask("say last").value(), "last");
}

TEST_F(WorkerPoolTest, AnAnswerThatIsNotAcceptedCostsItsProcess) {
  ASSERT_TRUE(Start().ok());
  const std::string pid = Ask("pid").value();
  const absl::Status status = worker_->Call(
      {"say x", [](const std::string&) { return absl::InvalidArgumentError("no JSON"); }},
      absl::InfiniteFuture());
  EXPECT_TRUE(absl::IsAborted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("its answer is broken: no JSON"));
  EXPECT_NE(Ask("pid").value(), pid);
}

TEST_F(WorkerPoolTest, ALeakEndsAtTheMemoryLimit) {
  ASSERT_TRUE(Start().ok());
  EXPECT_TRUE(Ask("take 600").ok()) << "the control: without a limit it is harmless";
  config_.command.memory_bytes = int64_t{512} << 20;
  ASSERT_TRUE(Start().ok());
  ExpectOneCallLost("take 600", "MemoryError");
}

TEST_F(WorkerPoolTest, WhatIsPrintedGoesToTheLogAndHasABound) {
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(Ask("shout 5000").value(), "5000");
  EXPECT_EQ(Ask("say on").value(), "on");
  worker_->Stop();
  EXPECT_THAT(lines(), Contains(HasSubstr("\"line\":\"rubbish 17\"")));
  EXPECT_THAT(lines(), Contains(HasSubstr("further lines are dropped")));
  EXPECT_LT(lines().size(), 1010u);
}

TEST_F(WorkerPoolTest, AProcessThatDiesWithoutWorkIsReplacedBeforeAnybodyAsks) {
  ASSERT_TRUE(Start().ok());
  const std::string pid = Ask("pid").value();
  int number = 0;
  ASSERT_TRUE(absl::SimpleAtoi(pid, &number));
  kill(number, SIGKILL);
  while (Lives(pid)) SystemClock().SleepFor(absl::Milliseconds(5));
  EXPECT_NE(Ask("pid").value(), pid);
  worker_->Stop();
  EXPECT_THAT(lines(), Contains(HasSubstr("signal 9")));
}

TEST_F(WorkerPoolTest, OthersWorkOnWhileOneHangs) {
  config_.processes = 2;
  ASSERT_TRUE(Start().ok());
  const std::string file =
      std::filesystem::temp_directory_path() / absl::StrFormat("worker_pool_test.%d", getpid());
  std::thread waits([&] { EXPECT_EQ(Ask("later " + file).value(), file); });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Ask("say hi").value(), "hi");
  EXPECT_TRUE(Ask("touch " + file).ok());  // only another process can set it free
  waits.join();
  std::filesystem::remove(file);
}

TEST_F(WorkerPoolTest, TheQueueHasABoundAndWaitingAnEnd) {
  config_.max_waiting = 1;
  ASSERT_TRUE(Start().ok());
  const std::string begun = TemporaryFile();
  std::thread hangs([&] { EXPECT_TRUE(absl::IsUnavailable(Ask("hang " + begun).status())); });
  while (!std::filesystem::exists(begun)) SystemClock().SleepFor(absl::Milliseconds(5));
  const absl::Status in_vain = Ask("say x", absl::Milliseconds(50)).status();
  EXPECT_TRUE(absl::IsUnavailable(in_vain)) << in_vain;
  EXPECT_THAT(std::string(in_vain.message()), HasSubstr("none of 1 processes was free in time"));
  std::thread waits([&] {
    while (absl::IsResourceExhausted(Ask("say x", absl::Seconds(20)).status())) {
    }
  });
  absl::Status full;
  for (int i = 0; i < 1000 && !absl::IsResourceExhausted(full); ++i) {
    SystemClock().SleepFor(absl::Milliseconds(5));  // the only place is left to the thread above
    full = Ask("say x", absl::Milliseconds(1)).status();
  }
  EXPECT_THAT(std::string(full.message()), HasSubstr("1 calls wait already"));
  worker_->Stop();  // ends the one that hangs and the one that waits
  hangs.join();
  waits.join();
  std::filesystem::remove(begun);
}

TEST_F(WorkerPoolTest, StopLeavesNoProcessBehind) {
  ASSERT_TRUE(Start().ok());
  const std::string pid = Ask("pid").value(), child = Ask("child").value();
  EXPECT_TRUE(Lives(pid));
  EXPECT_TRUE(Lives(child));
  worker_->Stop();
  EXPECT_FALSE(Lives(pid));
  for (int i = 0; i < 400 && Lives(child); ++i) SystemClock().SleepFor(absl::Milliseconds(5));
  // An orphan that was killed may stay a zombie where nobody reaps; it runs no program then.
  std::error_code gone;
  const auto program = std::filesystem::read_symlink("/proc/" + child + "/exe", gone);
  EXPECT_TRUE(!Lives(child) || gone) << program;
  EXPECT_TRUE(absl::IsUnavailable(Ask("say x").status()));
}

TEST_F(WorkerPoolTest, AStartThatFailsSaysWhy) {
  config_.command.argv = {"/no/such/python"};
  EXPECT_THAT(std::string(Start().message()), HasSubstr("worker echo: /no/such/python"));
  config_.command.argv = {PALIMPSEST_TEST_PYTHON, "-c", "import no_such_module"};
  EXPECT_THAT(std::string(Start().message()), HasSubstr("ModuleNotFoundError: No module named"));
  config_.command.argv = {PALIMPSEST_TEST_PYTHON, "-c", "import time; time.sleep(1000)"};
  config_.start_timeout = absl::Milliseconds(300);
  EXPECT_THAT(std::string(Start().message()), HasSubstr("it gave no answer in 300ms"));
}

TEST_F(WorkerPoolTest, AProcessGetsNothingOfOursButItsSocket) {
  setenv("PALIMPSEST_TEST_SECRET", "x", 1);
  config_.command.argv = {
      PALIMPSEST_TEST_PYTHON, "-c",
      "import os\n"
      "print('open', sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1])\n"
      "print('A is', os.environ['A'], 'PALIMPSEST_TEST_SECRET' in os.environ)\n"
      "raise SystemExit(3)"};
  config_.command.environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "A=b"};
  EXPECT_THAT(std::string(Start().message()), HasSubstr("last line: \"A is b False\""));
  EXPECT_THAT(lines(), Contains(HasSubstr("open [0, 1, 2, 3]")));
}

}  // namespace
}  // namespace palimpsest::env
