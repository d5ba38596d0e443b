#include <map>

#include "common/attention/cuda/segments.h"

namespace palimpsest::attention {

KeyUses UsesOf(const KernelGroup& group) {
  std::map<int64_t, std::vector<int64_t>> entries_of;  // ascending places
  for (size_t entry = 0; entry < group.key_slots.size(); ++entry) {
    const int64_t h = static_cast<int64_t>(entry) / group.keys % group.kv_heads;
    const int64_t slot = group.key_slots[entry];
    if (slot >= 0) entries_of[slot * group.kv_heads + h].push_back(static_cast<int64_t>(entry));
  }
  KeyUses uses{.places = {}, .begins = {0}, .entries = {}};
  for (const auto& [place, entries] : entries_of) {
    uses.places.push_back(place);
    uses.entries.insert(uses.entries.end(), entries.begin(), entries.end());
    uses.begins.push_back(static_cast<int64_t>(uses.entries.size()));
  }
  return uses;
}

int64_t OrderedScratch(const DeviceGroup& group, int d) {
  return int64_t{group.segments} * group.kv_heads * group.keys * (2 * d + 1);
}

}  // namespace palimpsest::attention
