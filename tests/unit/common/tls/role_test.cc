#include "common/tls/role.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

TEST(RoleTest, NamesGoThereAndBack) {
  for (const Role role : kAllRoles) EXPECT_EQ(RoleOfName(RoleName(role)).value(), role);
  for (const char* name : {"", "Trainer", "trainer ", "root"}) {
    EXPECT_FALSE(RoleOfName(name).ok()) << name;
  }
}

TEST(RoleTest, OneUriNamesTheRole) {
  const std::vector<std::string> uris = {"spiffe://cluster/job", "palimpsest://role/env"};
  EXPECT_EQ(RoleOfUris(uris).value(), Role::kEnv);
}

TEST(RoleTest, NoneSeveralAndUnknownOnesAreNoRole) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{}, "names no role"},
      {{"https://role/env"}, "names no role"},
      {{"palimpsest://role/env", "palimpsest://role/orchestrator"}, "more than one role"},
      {{"palimpsest://role/env", "palimpsest://role/env"}, "more than one role"},
      {{"palimpsest://role/"}, "not known"},
      {{"palimpsest://role/root"}, "palimpsest://role/root"},
      {{"palimpsest://role/env/../orchestrator"}, "not known"},
      {{std::string("palimpsest://role/orchestrator\0.env", 35)}, "not known"},
  };
  for (const auto& [uris, why] : cases) {
    EXPECT_EQ(RoleOfUris(uris).status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_THAT(std::string(RoleOfUris(uris).status().message()), HasSubstr(why));
  }
}

}  // namespace
}  // namespace palimpsest
