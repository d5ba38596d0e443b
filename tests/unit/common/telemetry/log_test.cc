#include "common/telemetry/log.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

namespace palimpsest {
namespace {

class LogTest : public ::testing::Test {
 protected:
  LogTest() { SetLogConfig({"trainer", "first", Severity::kInfo, &clock_}); }
  ~LogTest() override { SetLogConfig({}); }

  FakeClock clock_{absl::FromUnixMillis(1'700'000'000'123)};
  std::vector<std::string> lines_;
  ScopedLogSink sink_{[this](const std::string& line) { lines_.push_back(line); }};
};

TEST_F(LogTest, ALineIsOneJsonObjectWithTypedFields) {
  Log(Severity::kWarning, "queue is full",
      {{"tokens", 42}, {"share", 0.5}, {"group", "g1"}, {"retry", true}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0],
            R"({"time":"2023-11-14T22:13:20.123Z","level":"warning","role":"trainer",)"
            R"("run":"first","msg":"queue is full","tokens":42,"share":0.5,"group":"g1",)"
            R"("retry":true})");
}

TEST_F(LogTest, WhatIsBelowTheLevelIsDropped) {
  Log(Severity::kDebug, "quiet");
  EXPECT_TRUE(lines_.empty());
  Log(Severity::kInfo, "loud");
  EXPECT_EQ(lines_.size(), 1u);
}

TEST_F(LogTest, OddBytesStayOnOneValidLine) {
  Log(Severity::kError, "line\nbreak \"quoted\" \xff\xfe", {{"key", std::string("a\0b", 3)}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0].find('\n'), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(lines_[0]);
  EXPECT_EQ(json["msg"], "line\nbreak \"quoted\" \xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_F(LogTest, ThreadsDoNotMixTheirLines) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) Log(Severity::kInfo, "tick", {{"t", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(lines_.size(), 800u);
  for (const std::string& line : lines_) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
}

}  // namespace
}  // namespace palimpsest
