#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest::attention {

// The one structure that says what attends to what: query rows x key source x {causal | full | full
// + bias}. Plain causal, shared prompt, compaction, eviction under recorded visibility, Markovian
// cuts and a decode step are all plans. Letters: S segments, Hk KV heads, Lq padded queries, Lk
// padded keys.

// Segments of one shape, run as one batched kernel. A row of q stands in at most one segment of a
// group.
struct KernelGroup {
  int64_t segments = 0, kv_heads = 0, queries = 0, keys = 0;
  std::vector<int64_t> query_rows;     // [S, Lq] row of q; -1 = padding
  std::vector<int64_t> key_slots;      // [S, Hk, Lk] slot; -1 = padding
  std::vector<int64_t> causal_offset;  // [S] query i sees key j iff j <= i + offset; empty = all
};

struct AttentionPlan {
  int64_t rows = 0;  // of q; every row must see at least one key in some segment
  std::vector<KernelGroup> groups;
};

// Collects segments and packs them into few groups: by kind (a row is given to each kind at most
// once) and classes of a power of two of (queries, keys), padded to the largest member.
class PlanBuilder {
 public:
  PlanBuilder(int64_t rows, int kv_heads) : rows_(rows), kv_heads_(kv_heads) {}

  // Rows [begin, begin + count) x themselves, causal; the key of row begin + i stands in slot
  // slots[i].
  void AddCausal(int64_t begin, std::span<const int64_t> slots);
  // rows x slots that every head shares, full.
  void AddShared(std::span<const int64_t> rows, std::span<const int64_t> slots);
  // rows [begin, begin + count) x slots of each KV head, full.
  void AddPerHead(int64_t begin, int64_t count, std::vector<std::vector<int64_t>> slots_by_head);

  AttentionPlan Build();

 private:
  enum class Kind { kCausal, kShared, kPerHead };
  struct Segment {
    Kind kind = Kind::kCausal;
    std::vector<int64_t> rows;
    std::vector<std::vector<int64_t>> slots;  // one list for all heads, or one per head
    int64_t causal_offset = 0;
    int64_t keys() const;
  };
  void Pack(std::span<const Segment* const> members, AttentionPlan& plan) const;

  int64_t rows_;
  int kv_heads_;
  std::vector<Segment> segments_;
};

}  // namespace palimpsest::attention
