#include "common/rl/episode.h"

#include <gtest/gtest.h>

namespace palimpsest::rl {
namespace {

constexpr EpisodeBounds kBounds = {.max_turns = 4, .max_response = 10, .max_position = 100};

TEST(NextResponseTest, AnEpisodeGoesOnUntilItIsOverForOneOfFourReasons) {
  EXPECT_EQ(NextResponse({.tokens = 20}, kBounds), 10);
  EXPECT_EQ(NextResponse({.responses = 3, .tokens = 95}, kBounds), 5);
  EXPECT_EQ(NextResponse({.tokens = 99}, kBounds), 1);
  EXPECT_EQ(NextResponse({.tokens = 100}, kBounds), std::nullopt);
  EXPECT_EQ(NextResponse({.tokens = 150}, kBounds), std::nullopt);
  EXPECT_EQ(NextResponse({.responses = 4, .tokens = 20}, kBounds), std::nullopt);
  EXPECT_EQ(NextResponse({.done = true, .tokens = 20}, kBounds), std::nullopt);
  EXPECT_EQ(NextResponse({.starved = true, .tokens = 20}, kBounds), std::nullopt);
}

TEST(LostStepTest, WhatTheReplicaLostIsTriedAgainAndWhatIsRefusedIsNot) {
  EXPECT_TRUE(IsLost(absl::NotFoundError("")));
  EXPECT_TRUE(IsLost(absl::UnavailableError("")));
  EXPECT_TRUE(IsLost(absl::FailedPreconditionError("expected_tokens")));
  EXPECT_FALSE(IsLost(absl::InvalidArgumentError("")));
  EXPECT_FALSE(IsLost(absl::UnimplementedError("")));
  EXPECT_TRUE(MayStepLater(absl::ResourceExhaustedError("")));
  EXPECT_FALSE(MayStepLater(absl::UnavailableError("")));
}

}  // namespace
}  // namespace palimpsest::rl
