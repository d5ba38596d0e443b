#include "common/telemetry/trace.h"

#include <gtest/gtest.h>

#include <thread>

namespace palimpsest {
namespace {

TEST(TraceTest, AHeaderIsReadBackAndHasTheFormOfTheStandard) {
  const TraceId id{0x4bf92f3577b34da6, 0xa3ce929d0e0e4736};
  EXPECT_EQ(Traceparent(id, 0xf067aa0ba902b7),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  EXPECT_EQ(ParseTraceparent(Traceparent(id, 7)), id);
}

TEST(TraceTest, WhatIsNoHeaderOrNotSampledIsNone) {
  for (const char* text : {"", "00-", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                           "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e473 -00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"}) {
    EXPECT_EQ(ParseTraceparent(text), std::nullopt) << text;
  }
}

TEST(TraceTest, ScopesNestAndAreOfOneThread) {
  EXPECT_EQ(TraceScope::Now().id, TraceId{});
  const TraceScope outer({{1, 2}, nullptr});
  {
    const TraceScope inner({{3, 4}, nullptr});
    EXPECT_EQ(TraceScope::Now().id, (TraceId{3, 4}));
    std::thread([] { EXPECT_EQ(TraceScope::Now().id, TraceId{}); }).join();
  }
  EXPECT_EQ(TraceScope::Now().id, (TraceId{1, 2}));
}

}  // namespace
}  // namespace palimpsest
