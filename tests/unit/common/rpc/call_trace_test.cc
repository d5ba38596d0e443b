#include "common/rpc/call_trace.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/telemetry/trace.h"
#include "tests/unit/common/rpc/raw_service.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

class Spans final : public TraceSink {
 public:
  void Take(CallSpan span) override {
    const absl::MutexLock lock(&mu_);
    spans_.push_back(std::move(span));
  }
  std::vector<CallSpan> all() {
    const absl::MutexLock lock(&mu_);
    return spans_;
  }

 private:
  absl::Mutex mu_;
  std::vector<CallSpan> spans_;
};

class CallTraceTest : public ::testing::Test {
 protected:
  CallTraceTest()
      : sink_([this](const std::string& line) {
          const absl::MutexLock lock(&mu_);
          lines_.push_back(line);
        }) {
    server_ = RpcServer::Start({}, {&service_}, metrics_, SystemClock()).value();
    channel_ = MakeChannel(server_->address(), {}).value();
  }
  std::vector<std::string> ServedLines() {
    const absl::MutexLock lock(&mu_);
    std::vector<std::string> served;
    for (const std::string& line : lines_) {
      if (line.find("call served") != std::string::npos) served.push_back(line);
    }
    return served;
  }

  absl::Mutex mu_;
  std::vector<std::string> lines_;
  RawService service_;
  Metrics metrics_{"test", "0", SystemClock()};
  ScopedLogSink sink_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(CallTraceTest, ACallInAScopeIsSeenByBothSidesUnderOneId) {
  Spans spans;
  const absl::Time before = absl::Now();
  {
    const TraceScope scope({{0xabc, 0xdef}, &spans});
    EXPECT_EQ(CallRaw(channel_, "/test.Raw/Echo", "bytes").value(), "bytes");
  }
  EXPECT_EQ(CallRaw(channel_, "/test.Raw/Echo", "bytes").value(), "bytes");  // in no scope
  const std::vector<CallSpan> all = spans.all();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].method, "/test.Raw/Echo");
  EXPECT_TRUE(all[0].ok);
  EXPECT_GE(all[0].begin, before);
  ASSERT_TRUE(all[0].served.has_value());
  EXPECT_LE(all[0].served->length, all[0].length);
  EXPECT_GE(all[0].served->begin, before - absl::Milliseconds(1));
  const std::vector<std::string> lines = ServedLines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("0000000000000abc0000000000000def"));
  EXPECT_THAT(lines[0], HasSubstr("/test.Raw/Echo"));
}

TEST_F(CallTraceTest, ACallThatFailsHasASpanToo) {
  Spans spans;
  const TraceScope scope({{1, 2}, &spans});
  EXPECT_FALSE(CallRaw(channel_, "/test.Raw/Nothing", "bytes").ok());
  ASSERT_EQ(spans.all().size(), 1u);
  EXPECT_FALSE(spans.all()[0].ok);
}

}  // namespace
}  // namespace palimpsest
