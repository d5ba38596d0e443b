#include "services/inference/router/asking.h"

#include <gmock/gmock.h>

#include "common/rpc/address.h"
#include "services/inference/router/followed_addresses.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest::inference {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::Pair;

const grpc::Status kFull(StatusCode::RESOURCE_EXHAUSTED, "full", "details");
const grpc::Status kGone(StatusCode::UNAVAILABLE, "gone");
const grpc::Status kCancelled(StatusCode::CANCELLED, "ended");

TEST(AskingTest, WhatAReplicaCancelsByItselfIsALoss) {
  EXPECT_TRUE(IsLoss(kCancelled, false));
  EXPECT_FALSE(IsLoss(kCancelled, true));
  EXPECT_EQ(OutcomeOf(kCancelled, true), AskOutcome::kCancelled);
  EXPECT_EQ(OutcomeOf({StatusCode::NOT_FOUND, ""}, false), AskOutcome::kRefused);
}

TEST(AskingTest, OneAnswerGoesOnAsItIsAndSeveralAreNamed) {
  EXPECT_EQ(VerdictOf({{"a", kFull}}).error_details(), "details");
  EXPECT_EQ(VerdictOf({{"a", kCancelled}}).error_code(), StatusCode::UNAVAILABLE);
  const grpc::Status both = VerdictOf({{"a", kGone}, {"b", kFull}});
  EXPECT_EQ(both.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(both.error_message(), "a: gone; b: full");
  EXPECT_EQ(About("it", kFull).error_message(), "it: full");
  EXPECT_EQ(About("it", kFull).error_details(), "details");
}

TEST(FollowedAddressesTest, ListsReplicasAndNothingElse) {
  const weights::ScratchFolder run;
  EXPECT_TRUE(FollowedAddresses(run.path()).empty());
  ASSERT_TRUE(WriteAddress(run.path(), "inference", 12, {"a:1", 7}).ok());
  ASSERT_TRUE(WriteAddress(run.path(), "inference", 3, {"b:2", 8}).ok());
  ASSERT_TRUE(WriteAddress(run.path(), "router", 0, {"c:3", 9}).ok());
  ASSERT_TRUE(WriteAddress(run.path(), "http", 0, {"d:4", 9}).ok());
  for (const char* other : {"inference-x", "inference-", "inference", "inference-5"}) {
    weights::Write(run / (std::string("addresses/") + other), "half an addr");
  }
  EXPECT_THAT(FollowedAddresses(run.path()),
              ElementsAre(Pair("inference-12", "a:1"), Pair("inference-3", "b:2")));
}

}  // namespace
}  // namespace palimpsest::inference
