#include "services/inference/router/config.h"

#include <gmock/gmock.h>

#include <functional>

namespace palimpsest::inference {
namespace {

using ::testing::HasSubstr;

TEST(RouterConfigTest, DefaultsAreLegalAndRefusalsNameTheField) {
  EXPECT_TRUE(Validate(RouterConfig()).ok()) << Validate(RouterConfig());
  const auto refused = [](const std::function<void(RouterConfig&)>& breaks) {
    RouterConfig broken;
    breaks(broken);
    return std::string(Validate(broken).message());
  };
  EXPECT_THAT(refused([](auto& c) { c.serve.listen = "0.0.0.0:1"; }), HasSubstr("router.insecure"));
  EXPECT_THAT(refused([](auto& c) { c.replicas = {"node1"}; }), HasSubstr("router.replicas"));
  EXPECT_THAT(refused([](auto& c) { c.replicas = {"node1:0"}; }), HasSubstr("node1:0"));
  EXPECT_THAT(refused([](auto& c) { c.replicas = {"a:1", "a:1"}; }), HasSubstr("twice"));
  EXPECT_THAT(refused([](auto& c) { c.poll = absl::ZeroDuration(); }), HasSubstr("router.poll=0"));
  EXPECT_THAT(refused([](auto& c) { c.patience = absl::ZeroDuration(); }),
              HasSubstr("router.patience=0"));
  EXPECT_THAT(refused([](auto& c) { c.load_factor = 0.5; }), HasSubstr("router.load_factor=0.5"));
  EXPECT_THAT(refused([](auto& c) { c.call_deadline = absl::ZeroDuration(); }),
              HasSubstr("router.call_deadline=0"));
  EXPECT_EQ(refused([](auto& c) { c.replicas = {"a:1", "[::1]:2"}; }), "");
}

}  // namespace
}  // namespace palimpsest::inference
