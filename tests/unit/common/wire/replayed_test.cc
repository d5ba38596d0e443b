#include "common/wire/replayed.h"

#include <cmath>
#include <functional>

#include "gtest/gtest.h"

namespace palimpsest::wire {
namespace {

const std::map<std::string, int64_t> kSampled = {{"a", 2}, {"b", 0}, {"c", 3}};

v1::TrainBatchResponse Whole() {
  v1::TrainBatchResponse response;
  for (const rl::Replayed& value :
       {rl::Replayed{"c", {-1, -HUGE_VALF, -0.1f}}, rl::Replayed{"a", {-2, 0}}}) {
    *response.add_replayed() = ToProto(value);
  }
  return response;
}

TEST(ReplayedWireTest, ComesBackAsItWentWithoutThoseThatAreAbsent) {
  v1::TrainBatchResponse received;
  ASSERT_TRUE(received.ParseFromString(Whole().SerializeAsString()));
  const auto values = FromProto(received.replayed(), kSampled);
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_EQ(*values, (std::vector<rl::Replayed>{{"c", {-1, -HUGE_VALF, -0.1f}}, {"a", {-2, 0}}}));
  EXPECT_TRUE(FromProto(v1::TrainBatchResponse().replayed(), kSampled)->empty());
}

TEST(ReplayedWireTest, IsRefusedByThePlaceThatIsBroken) {
  using R = v1::TrainBatchResponse;
  const std::pair<const char*, std::function<void(R&)>> cases[] = {
      {"replayed[1].logprobs: 1 entries for 2 sampled tokens of a",
       [](R& r) { r.mutable_replayed(1)->mutable_logprobs()->RemoveLast(); }},
      {"replayed[0].logprobs: 4 entries for 3 sampled tokens of c",
       [](R& r) { r.mutable_replayed(0)->add_logprobs(-1); }},
      {"replayed[0].logprobs: 0 entries", [](R& r) { r.mutable_replayed(0)->clear_logprobs(); }},
      {"replayed[1].rollout_id: 'x'", [](R& r) { r.mutable_replayed(1)->set_rollout_id("x"); }},
      {"replayed[1].rollout_id: ''", [](R& r) { r.mutable_replayed(1)->clear_rollout_id(); }},
      {"replayed[2].rollout_id: 'a'", [](R& r) { *r.add_replayed() = r.replayed(1); }},
  };
  for (const auto& [refusal, breaks] : cases) {
    R response = Whole();
    breaks(response);
    const absl::Status status = FromProto(response.replayed(), kSampled).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << refusal;
    EXPECT_TRUE(std::string(status.message()).starts_with(refusal))
        << refusal << " / " << status.message();
  }
}

}  // namespace
}  // namespace palimpsest::wire
