#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"
#include "gtest/gtest.h"
#include "tests/unit/common/wire/generate.h"

namespace palimpsest::wire {
namespace {

constexpr int kRounds = 500;

// Through bytes, as it crosses a process boundary.
template <class Message>
Message Sent(const Message& message) {
  Message received;
  EXPECT_TRUE(received.ParseFromString(message.SerializeAsString()));
  return received;
}

template <class Value>
void ExpectRoundTrip(const Value& value) {
  const auto back = FromProto(Sent(ToProto(value)));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, value);
}

TEST(RoundTripTest, EventsComeBackAsTheyWent) {
  RandomStream stream(1);
  for (int i = 0; i < kRounds; ++i) {
    const context::Shape shape{1 + static_cast<int32_t>(stream.Below(4)),
                               1 + static_cast<int32_t>(stream.Below(4))};
    ExpectRoundTrip(RandomEvent(stream, shape, 1 + static_cast<int32_t>(stream.Below(100))));
  }
}

TEST(RoundTripTest, WhatListensToNothingHasNoQuality) {
  RandomStream stream(3);
  context::Event event = RandomEvent(stream, {1, 1}, 10);
  event.method = context::Method::kEvict;
  event.parameters.chooser = context::Chooser::kRecent;
  EXPECT_FALSE(ToProto(event).has_quality());
  event.parameters.chooser = context::Chooser::kAttention;
  EXPECT_TRUE(ToProto(event).has_quality());
}

TEST(RoundTripTest, PoliciesComeBackAsTheyWent) {
  RandomStream stream(2);
  for (int i = 0; i < kRounds; ++i) ExpectRoundTrip(RandomPolicy(stream));
}

TEST(RoundTripTest, RolloutsComeBackAsTheyWent) {
  RandomStream stream(3);
  size_t events = 0;
  for (int i = 0; i < kRounds; ++i) {
    const rl::Rollout rollout = RandomRollout(stream);
    events += rollout.events.size();
    ExpectRoundTrip(rollout);
  }
  EXPECT_GT(events, size_t{kRounds});  // else the generator tests little
}

TEST(RoundTripTest, SamplingAndBudgetMessagesComeBackAsTheyWent) {
  RandomStream stream(4);
  for (int i = 0; i < kRounds; ++i) {
    ExpectRoundTrip(RandomSampling(stream));
    ExpectRoundTrip(RandomBudgetMessages(stream));
  }
}

TEST(RoundTripTest, OutcomesComeBackAsTheyWent) {
  for (int i = 1; i <= 5; ++i) {
    const auto outcome = static_cast<rl::Outcome>(i);
    EXPECT_EQ(*FromProto(ToProto(outcome), "outcome"), outcome);
  }
}

TEST(DefaultsTest, AnEmptyRequestMeansTheDefaultsOfTheValues) {
  EXPECT_EQ(*FromProto(v1::SamplingParams()), rl::SamplingParams());
  EXPECT_EQ(*FromProto(v1::ContextPolicy()), context::ContextPolicy());
}

TEST(DefaultsTest, AnEvictPolicyWithoutChooserTakesThatOfItsMethod) {
  v1::ContextPolicy proto;
  proto.set_method(v1::COMPACTION_METHOD_EVICT);
  proto.mutable_parameters()->set_seed(9);
  const auto policy = FromProto(proto);
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->parameters.chooser, context::Chooser::kAttention);
  EXPECT_EQ(policy->parameters.seed, 9u);
}

// The layout in numbers, not by our own packing: window [3, 13), 2 bytes a head.
TEST(KeptTest, BitmapsAreLeastSignificantBitFirstAndLayerMajor) {
  RandomStream stream(5);
  context::Event event = RandomEvent(stream, {1, 1}, 20);
  event.window = {3, 13};
  event.kept = context::KeptPositions({2, 1});
  event.kept.AddHead(std::vector<int32_t>{3, 5, 12});
  event.kept.AddHead(std::vector<int32_t>{});
  EXPECT_EQ(ToProto(event).kept(), std::string("\x05\x02\x00\x00", 4));
}

}  // namespace
}  // namespace palimpsest::wire
