#include "common/weights/retention.h"

#include <gmock/gmock.h>

namespace palimpsest::weights {
namespace {

constexpr absl::Time kNow = absl::UnixEpoch();

std::vector<PolicyVersion> Versions(std::initializer_list<int64_t> numbers) {
  std::vector<PolicyVersion> versions;
  for (const int64_t n : numbers) versions.emplace_back(n);
  return versions;
}

Lease Live(std::optional<int64_t> version) {
  const auto number = version ? std::optional(PolicyVersion(*version)) : std::nullopt;
  return {"live", number, kNow + absl::Seconds(1)};
}

Lease Dead(int64_t version) { return {"dead", PolicyVersion(version), kNow}; }

struct Row {
  const char* why;
  std::vector<PolicyVersion> versions;
  std::vector<Lease> leases;
  int keep_last;
  std::vector<PolicyVersion> doomed;
};

TEST(VersionsToDelete, FollowsTheTable) {
  const auto five = Versions({3, 4, 7, 8, 9});
  const std::vector<Row> rows = {
      {"empty store", {}, {}, 2, {}},
      {"fewer than are kept", Versions({3, 4}), {}, 3, {}},
      {"nobody reads", five, {}, 2, Versions({3, 4, 7})},
      {"more are kept", five, {}, 4, Versions({3})},
      {"two stay whatever is asked", five, {}, 0, Versions({3, 4, 7})},
      {"two stay for a negative number", five, {}, -5, Versions({3, 4, 7})},
      {"the newest is served", five, {Live(9)}, 2, Versions({3, 4, 7})},
      {"an old one is served: all after it may be on their way", five, {Live(4)}, 2, Versions({3})},
      {"the slowest reader counts", five, {Live(9), Live(7)}, 2, Versions({3, 4})},
      {"a reader without a version holds all", five, {Live(std::nullopt)}, 2, {}},
      {"an expired lease holds nothing", five, {Dead(3), Live(9)}, 2, Versions({3, 4, 7})},
      {"a version that is gone holds what follows", five, {Live(5)}, 2, Versions({3, 4})},
      {"a version from the future holds nothing", five, {Live(50)}, 2, Versions({3, 4, 7})},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(VersionsToDelete(row.versions, row.leases, row.keep_last, kNow), row.doomed)
        << row.why;
  }
}

TEST(Lease, IsReadAsItWasWritten) {
  for (const Lease& lease : {Live(7), Live(std::nullopt), Dead(1)}) {
    EXPECT_EQ(*LeaseFromJson(ToJson(lease)), lease);
  }
}

TEST(Lease, BrokenOnesAreRefused) {
  for (const char* text :
       {"", "{}", R"({"reader":"a","version":0,"expires":"1970-01-01T00:00:00+00:00"})",
        R"({"reader":"a","version":-1,"expires":"1970-01-01T00:00:00+00:00"})",
        R"({"reader":"a","version":1,"expires":"soon"})"}) {
    EXPECT_TRUE(absl::IsDataLoss(LeaseFromJson(text).status())) << text;
  }
}

TEST(ReaderName, IsSafeAsAFileName) {
  EXPECT_TRUE(ValidateReaderName("inference-0.node_1").ok());
  for (const std::string& name : {std::string(), std::string("../x"), std::string(".x"),
                                  std::string("a/b"), std::string("a b"), std::string(201, 'a')}) {
    EXPECT_FALSE(ValidateReaderName(name).ok()) << name;
  }
}

}  // namespace
}  // namespace palimpsest::weights
