#include "common/rl/packing.h"

#include <map>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

struct Group {
  int64_t rows = 0;  // prompt once
  std::vector<int> items;
};

absl::StatusOr<std::vector<Group>> CollectGroups(std::span<const PackItem> items,
                                                 int64_t max_rows) {
  std::vector<Group> groups;
  std::map<int64_t, size_t> index_of;
  for (size_t i = 0; i < items.size(); ++i) {
    const PackItem& item = items[i];
    if (item.rows > max_rows) {
      return absl::InvalidArgumentError(
          absl::StrFormat("items[%d].rows=%d is more than max_rows=%d", i, item.rows, max_rows));
    }
    const auto [place, fresh] = index_of.try_emplace(item.group, groups.size());
    if (fresh) groups.push_back({.rows = item.prompt_tokens});
    Group& group = groups[place->second];
    group.rows += item.rows - item.prompt_tokens;
    group.items.push_back(static_cast<int>(i));
  }
  return groups;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int>>> PackMicroBatches(std::span<const PackItem> items,
                                                               int64_t max_rows) {
  ASSIGN_OR_RETURN(const std::vector<Group> groups, CollectGroups(items, max_rows));
  std::vector<std::vector<int>> batches;
  int64_t room = 0;  // left in batches.back()
  const auto open = [&] {
    batches.emplace_back();
    room = max_rows;
  };
  for (const Group& group : groups) {
    if (group.rows <= max_rows) {
      if (batches.empty() || group.rows > room) open();
      batches.back().insert(batches.back().end(), group.items.begin(), group.items.end());
      room -= group.rows;
      continue;
    }
    open();  // too large for any: its items fill micro-batches of their own
    bool prompt_here = false;
    for (int i : group.items) {
      const int64_t own = items[i].rows - items[i].prompt_tokens;
      if (own + (prompt_here ? 0 : items[i].prompt_tokens) > room) {
        open();
        prompt_here = false;
      }
      room -= own + (prompt_here ? 0 : items[i].prompt_tokens);
      prompt_here = true;
      batches.back().push_back(i);
    }
  }
  return batches;
}

}  // namespace palimpsest::rl
