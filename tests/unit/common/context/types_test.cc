#include "common/context/types.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

namespace palimpsest::context {
namespace {

using ::testing::HasSubstr;

TEST(NamesTest, EveryNameIsReadBack) {
  for (auto m : {Method::kAttentionMatching, Method::kEvict, Method::kMarkovian}) {
    EXPECT_EQ(*MethodFromName(Name(m)), m);
  }
  for (int c = 1; c <= 10; ++c) {
    EXPECT_EQ(*ChooserFromName(Name(static_cast<Chooser>(c))), static_cast<Chooser>(c));
  }
  for (auto k : {ReferenceKind::kQueries, ReferenceKind::kKeys, ReferenceKind::kRandom}) {
    EXPECT_EQ(*ReferenceKindFromName(Name(k)), k);
  }
}

TEST(NamesTest, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const auto status = MethodFromName("Evict").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "method=\"Evict\" is not one of: attention_matching, evict, markovian");
  EXPECT_FALSE(ChooserFromName("").ok());
  EXPECT_EQ(Name(static_cast<Chooser>(200)), "");
}

TEST(KeptCountTest, FollowsTheDesignsFormulaInDouble) {
  const auto am = Method::kAttentionMatching;
  EXPECT_EQ(KeptCount(am, 0.29, 100), 28);  // 0.29 * 100 = 28.999999999999996
  EXPECT_EQ(KeptCount(am, 0.25, 100), 25);
  EXPECT_EQ(KeptCount(am, 0.25, 3), 1);  // at least one
  EXPECT_EQ(KeptCount(am, 0.0, 8), 1);
  EXPECT_EQ(KeptCount(am, 0.5, 1), 1);
  EXPECT_EQ(KeptCount(am, 0.5, 0), 0);
  EXPECT_EQ(KeptCount(am, 1.0, 7), 7);
  EXPECT_EQ(KeptCount(Method::kEvict, 0.25, 3), 0);
  EXPECT_EQ(KeptCount(Method::kEvict, 0.29, 100), 28);
  EXPECT_EQ(KeptCount(Method::kEvict, 0.999, 1000), 999);
  EXPECT_EQ(KeptCount(Method::kMarkovian, 0.9, 1000), 0);
}

TEST(DigestTest, HexIsReadBackAndNothingElseIs) {
  Digest digest;
  for (int i = 0; i < 16; ++i) digest.bytes[i] = static_cast<uint8_t>(i * 17);
  EXPECT_EQ(digest.Hex(), "00112233445566778899aabbccddeeff");
  EXPECT_EQ(*Digest::FromHex(digest.Hex()), digest);
  EXPECT_FALSE(Digest::FromHex("").ok());
  EXPECT_FALSE(Digest::FromHex("00112233445566778899aabbccddeef").ok());
  EXPECT_FALSE(Digest::FromHex("00112233445566778899aabbccddeefff").ok());
  EXPECT_FALSE(Digest::FromHex("00112233445566778899aabbccddeefg").ok());
  EXPECT_FALSE(Digest::FromHex("00112233445566778899AABBCCDDEEFF").ok());
}

TEST(KeptPositionsTest, HoldsEachHeadsPositions) {
  KeptPositions kept(Shape{1, 2});
  EXPECT_FALSE(kept.complete());
  kept.AddHead(std::vector<int32_t>{1, 4});
  kept.AddHead(std::vector<int32_t>{2, 3, 9});
  EXPECT_TRUE(kept.complete());
  EXPECT_EQ(kept.max_count(), 3);
  EXPECT_THAT(kept.at(0, 0), testing::ElementsAre(1, 4));
  EXPECT_THAT(kept.at(0, 1), testing::ElementsAre(2, 3, 9));
  EXPECT_EQ(KeptPositions().max_count(), 0);
}

TEST(ParametersTest, DefaultsAreValidForAttentionMatching) {
  EXPECT_TRUE(Validate(Parameters{}, Method::kAttentionMatching).ok());
  EXPECT_TRUE(Validate(Parameters{}, Method::kMarkovian).ok());
}

TEST(ParametersTest, EachFieldOutOfRangeIsNamed) {
  const double nan = std::nan("");
  const double inf = std::numeric_limits<double>::infinity();
  const auto refused = [](auto change, const char* field) {
    Parameters p;
    change(p);
    const absl::Status status = Validate(p, Method::kAttentionMatching);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), testing::StartsWith(std::string(field) + "="));
  };
  for (double bad : {0.0, -1.0, nan, inf, -inf}) {
    refused([&](Parameters& p) { p.mu = bad; }, "mu");
    refused([&](Parameters& p) { p.lambda = bad; }, "lambda");
    refused([&](Parameters& p) { p.log_upper = bad; }, "log_upper");
    refused([&](Parameters& p) { p.log_lower = -bad; }, "log_lower");
  }
  for (int bad : {1, -1, std::numeric_limits<int>::min()}) {
    refused([&](Parameters& p) { p.holdout_every = bad; }, "holdout_every");
  }
  for (int bad : {0, 11, 255}) {
    refused([&](Parameters& p) { p.chooser = static_cast<Chooser>(bad); }, "chooser");
  }
  for (int bad : {0, 4}) {
    refused([&](Parameters& p) { p.reference_kind = static_cast<ReferenceKind>(bad); },
            "reference_kind");
  }
  EXPECT_THAT(std::string(Validate(Parameters{}, static_cast<Method>(9)).message()),
              HasSubstr("method=9"));
}

TEST(ParametersTest, ChoosersBelongToTheirMethod) {
  const auto fits = [](Method method, Chooser chooser) {
    Parameters p;
    p.chooser = chooser;
    return Validate(p, method).ok();
  };
  for (int c = 1; c <= 10; ++c) {
    const auto chooser = static_cast<Chooser>(c);
    EXPECT_EQ(fits(Method::kAttentionMatching, chooser), c <= 4 || c >= 8) << c;
    EXPECT_EQ(fits(Method::kEvict, chooser), c >= 5) << c;
    EXPECT_TRUE(fits(Method::kMarkovian, chooser)) << c;
  }
  for (auto m : {Method::kAttentionMatching, Method::kEvict, Method::kMarkovian}) {
    EXPECT_TRUE(fits(m, DefaultChooser(m)));
  }
}

TEST(ParametersTest, OnlyMethodsThatWeighSlotsListenToReferences) {
  EXPECT_TRUE(UsesReference(Method::kAttentionMatching, Chooser::kOmp));
  EXPECT_TRUE(UsesReference(Method::kEvict, Chooser::kAttention));
  EXPECT_FALSE(UsesReference(Method::kEvict, Chooser::kRecent));
  EXPECT_FALSE(UsesReference(Method::kEvict, Chooser::kRandom));
  EXPECT_FALSE(UsesReference(Method::kMarkovian, Chooser::kRms));
}

TEST(ParametersTest, WhatCarriesListensWhereSomethingIsChosen) {
  for (int c = 1; c <= 10; ++c) {
    const auto chooser = static_cast<Chooser>(c);
    EXPECT_EQ(Carries(Method::kAttentionMatching, chooser), c >= 8) << c;
    EXPECT_EQ(Carries(Method::kEvict, chooser), c >= 8) << c;
    EXPECT_FALSE(Carries(Method::kMarkovian, chooser)) << c;
    EXPECT_EQ(UsesReference(Method::kEvict, chooser), c == 5 || c >= 8) << c;
    EXPECT_FALSE(UsesReference(Method::kMarkovian, chooser)) << c;
  }
}

}  // namespace
}  // namespace palimpsest::context
