#include "tools/launch/progress_watch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/synchronization/mutex.h"
#include "common/rpc/address.h"
#include "common/rpc/server.h"
#include "palimpsest/v1/orchestrator.grpc.pb.h"

namespace palimpsest::tools {
namespace {

// Sends one state and keeps the stream open until the caller goes.
class OneStep final : public v1::OrchestratorService::Service {
 public:
  explicit OneStep(int64_t step) : step_(step) {}
  grpc::Status WatchProgress(grpc::ServerContext* context, const v1::WatchProgressRequest*,
                             grpc::ServerWriter<v1::WatchProgressResponse>* writer) override {
    v1::WatchProgressResponse response;
    response.mutable_progress()->set_step(step_);
    writer->Write(response);
    while (!context->IsCancelled()) SystemClock().SleepFor(absl::Milliseconds(10));
    return grpc::Status::OK;
  }

 private:
  const int64_t step_;
};

// An orchestrator's life: from its address file to the end of its server.
struct Life {
  Life(const std::string& run, int64_t step) : service(step) {
    EXPECT_TRUE(WriteAddress(run, "orchestrator", 0, {server->address(), getpid()}).ok());
  }
  OneStep service;
  Metrics metrics{"test", "0", SystemClock()};
  std::unique_ptr<RpcServer> server =
      RpcServer::Start({.drain = absl::ZeroDuration()}, {&service}, metrics, SystemClock()).value();
};

TEST(ProgressWatchTest, WaitsForTheOrchestratorAndFollowsItThroughARestart) {
  const std::string run = ::testing::TempDir() + "watch-" + std::to_string(getpid());
  std::filesystem::create_directories(run);
  absl::Mutex mu;
  int64_t seen = 0;
  const auto sees = [&](int64_t step) {
    const auto done = [&] { return seen == step; };
    const absl::MutexLock lock(&mu);
    return mu.AwaitWithTimeout(absl::Condition(&done), absl::Seconds(20));
  };
  {
    const ProgressWatch watch(run, {}, [&](const v1::Progress& progress) {
      const absl::MutexLock lock(&mu);
      seen = progress.step();
    });
    {
      const Life first(run, 3);
      EXPECT_TRUE(sees(3));
    }
    const Life second(run, 4);
    EXPECT_TRUE(sees(4));
  }  // the watch ends although its stream is open
  std::filesystem::remove_all(run);
}

TEST(ProgressWatchTest, EndsAtOnceWhereNobodyIsThere) {
  const ProgressWatch watch("no-such-run", {}, [](const v1::Progress&) {});
}

}  // namespace
}  // namespace palimpsest::tools
