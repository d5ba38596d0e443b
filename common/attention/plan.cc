#include "common/attention/plan.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <tuple>

namespace palimpsest::attention {
namespace {

// Longer query runs are cut, so that scores of one segment stay small and causal halves are
// skipped.
constexpr int64_t kTileRows = 64;

int Log2Class(int64_t n) {
  return std::bit_width(static_cast<uint64_t>(std::max<int64_t>(n, 1) - 1));
}

}  // namespace

int64_t PlanBuilder::Segment::keys() const {
  size_t most = 0;
  for (const auto& list : slots) most = std::max(most, list.size());
  return static_cast<int64_t>(most);
}

void PlanBuilder::AddCausal(int64_t begin, std::span<const int64_t> slots) {
  const int64_t count = static_cast<int64_t>(slots.size());
  for (int64_t tile = 0; tile < count; tile += kTileRows) {
    const int64_t end = std::min(count, tile + kTileRows);
    Segment s{.kind = Kind::kCausal,
              .rows = std::vector<int64_t>(end - tile),
              .slots = {{slots.begin(), slots.begin() + end}},
              .causal_offset = tile};
    std::iota(s.rows.begin(), s.rows.end(), begin + tile);
    segments_.push_back(std::move(s));
  }
}

void PlanBuilder::AddShared(std::span<const int64_t> rows, std::span<const int64_t> slots) {
  if (slots.empty()) return;
  for (size_t tile = 0; tile < rows.size(); tile += kTileRows) {
    const auto part = rows.subspan(tile, std::min<size_t>(kTileRows, rows.size() - tile));
    segments_.push_back({.kind = Kind::kShared,
                         .rows = {part.begin(), part.end()},
                         .slots = {{slots.begin(), slots.end()}}});
  }
}

void PlanBuilder::AddPerHead(int64_t begin, int64_t count,
                             std::vector<std::vector<int64_t>> slots_by_head) {
  if (std::all_of(slots_by_head.begin(), slots_by_head.end(),
                  [](const auto& s) { return s.empty(); }))
    return;
  for (int64_t tile = 0; tile < count; tile += kTileRows) {
    Segment s{.kind = Kind::kPerHead,
              .rows = std::vector<int64_t>(std::min(kTileRows, count - tile)),
              .slots = slots_by_head};
    std::iota(s.rows.begin(), s.rows.end(), begin + tile);
    segments_.push_back(std::move(s));
  }
}

void PlanBuilder::Pack(std::span<const Segment* const> members, AttentionPlan& plan) const {
  KernelGroup g{.segments = static_cast<int64_t>(members.size()), .kv_heads = kv_heads_};
  for (const Segment* s : members) {
    g.queries = std::max<int64_t>(g.queries, static_cast<int64_t>(s->rows.size()));
    g.keys = std::max(g.keys, s->keys());
    if (s->kind == Kind::kCausal) g.causal_offset.push_back(s->causal_offset);
  }
  g.query_rows.assign(g.segments * g.queries, -1);
  g.key_slots.assign(g.segments * g.kv_heads * g.keys, -1);
  for (int64_t i = 0; i < g.segments; ++i) {
    const Segment& s = *members[i];
    std::copy(s.rows.begin(), s.rows.end(), g.query_rows.begin() + i * g.queries);
    for (int h = 0; h < kv_heads_; ++h) {
      const auto& list = s.slots[s.slots.size() == 1 ? 0 : h];
      std::copy(list.begin(), list.end(), g.key_slots.begin() + (i * kv_heads_ + h) * g.keys);
    }
  }
  plan.groups.push_back(std::move(g));
}

AttentionPlan PlanBuilder::Build() {
  std::map<std::tuple<Kind, int, int>, std::vector<const Segment*>> classes;
  for (const Segment& s : segments_) {
    classes[{s.kind, Log2Class(static_cast<int64_t>(s.rows.size())), Log2Class(s.keys())}]
        .push_back(&s);
  }
  AttentionPlan plan{.rows = rows_, .groups = {}};
  for (const auto& [key, members] : classes) Pack(members, plan);
  segments_.clear();
  return plan;
}

}  // namespace palimpsest::attention
