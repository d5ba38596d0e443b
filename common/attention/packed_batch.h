#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/context/state.h"

namespace palimpsest::attention {

// An event to be replayed: with its kept positions forced (event.kept.complete()), or chosen on the
// fly, keep_ratio of each head's window.
struct ReplayEvent {
  context::Event event;
  double keep_ratio = 0;
  bool forced() const { return event.kept.complete(); }
};

// A finished sequence and its log.
struct ReplaySequence {
  std::span<const int32_t> tokens;  // by position
  int32_t prompt_tokens = 0;        // P >= 0; rows before it may be shared with other sequences
  int32_t rows = 0;                 // positions [0, rows) are evaluated; P <= rows <= tokens
  std::vector<ReplayEvent> events;  // `at` strictly rising, at <= rows
};

// Many sequences as rows of one forward pass: prompts first, then all responses; each response's
// positions start at P. A prompt whose ids and events with at < P are equal exists once: N(P+R)
// rows become P+NR.
class PackedBatch {
 public:
  // A run of rows with its own events. Prompts have no parent; a response continues its parent's
  // context.
  struct Node {
    int64_t row_begin = 0;
    int32_t position_begin = 0;
    int32_t count = 0;
    int parent = -1;
    std::vector<ReplayEvent> events;
    bool held = false;  // not of this pass; see CreateBehind
  };

  // INVALID_ARGUMENT "sequences[i]...." for a log that does not fit its sequence or `shape`
  // (digests are not looked at).
  static absl::StatusOr<PackedBatch> Create(std::span<const ReplaySequence> sequences,
                                            context::Shape shape, bool share_prompts = true);
  // The same behind a prompt that has run in a pass of its own: sequences that begin with it (all
  // of it, and no event before its end) go on from there. Its rows are none of this pass; they are
  // numbered from rows() on.
  static absl::StatusOr<PackedBatch> CreateBehind(std::span<const int32_t> held_prompt,
                                                  std::span<const ReplaySequence> sequences,
                                                  context::Shape shape);

  context::Shape shape() const { return shape_; }
  int64_t rows() const { return static_cast<int64_t>(ids_.size()); }
  const std::vector<int64_t>& ids() const { return ids_; }              // [T]
  const std::vector<int64_t>& positions() const { return positions_; }  // [T]
  const std::vector<Node>& nodes() const { return nodes_; }             // prompts before responses
  int prompt_nodes() const { return prompt_nodes_; }
  int response_node(int sequence) const { return prompt_nodes_ + sequence; }

  // Packed row of a position of a sequence.
  int64_t RowOf(int sequence, int32_t position) const {
    return RowOfNode(response_node(sequence), position);
  }
  int64_t RowOfNode(int node, int32_t position) const {
    const Node& n = nodes_[node];
    return position < n.position_begin ? RowOfNode(n.parent, position)
                                       : n.row_begin + position - n.position_begin;
  }

 private:
  using Prompts = std::vector<std::span<const int32_t>>;  // of the prompt nodes
  static absl::StatusOr<PackedBatch> Build(std::span<const ReplaySequence> sequences,
                                           context::Shape shape, bool share_prompts,
                                           std::span<const int32_t> held_prompt);
  int PromptNode(const ReplaySequence& s, bool share, Prompts& prompts);
  void AddRows(Node& node, std::span<const int32_t> tokens);
  int FindPrompt(const ReplaySequence& s, std::span<const ReplayEvent> events,
                 const Prompts& prompts) const;

  context::Shape shape_;
  std::vector<int64_t> ids_, positions_;
  std::vector<Node> nodes_;
  int prompt_nodes_ = 0;
};

}  // namespace palimpsest::attention
