#include "common/attention/packed_batch.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/attention/first_slots.h"

namespace palimpsest::attention {
namespace {

bool SameEvent(const ReplayEvent& a, const ReplayEvent& b) {
  return a.keep_ratio == b.keep_ratio && a.event.at == b.event.at &&
         a.event.window == b.event.window && a.event.method == b.event.method &&
         a.event.parameters == b.event.parameters && a.event.reference == b.event.reference &&
         a.event.kept == b.event.kept;
}

bool SameEvents(std::span<const ReplayEvent> a, std::span<const ReplayEvent> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), SameEvent);
}

// Walks the log; the window and reference range of every event must fit what is there.
absl::Status CheckStructure(const ReplaySequence& s, context::Shape shape) {
  if (s.prompt_tokens < 0 || s.rows < s.prompt_tokens ||
      s.rows > static_cast<int64_t>(s.tokens.size())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rows=%d must lie in [prompt_tokens=%d, tokens=%d]", s.rows,
                        s.prompt_tokens, static_cast<int>(s.tokens.size())));
  }
  context::ContextState state(shape);
  for (size_t i = 0; i < s.events.size(); ++i) {
    const context::Event& e = s.events[i].event;
    const std::string where = absl::StrFormat("events[%d]", i);
    if (e.at > s.rows || e.at < state.processed() || (i > 0 && e.at <= s.events[i - 1].event.at)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s.at=%d does not rise within %d rows", where, e.at, s.rows));
    }
    if (e.reference.begin < 0 || e.reference.end > e.at || e.reference.begin > e.reference.end) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s.reference=[%d, %d) lies outside [0, at=%d)", where, e.reference.begin,
                          e.reference.end, e.at));
    }
    state.Append(e.at - state.processed());
    context::Event applied = e;
    if (!s.events[i].forced()) {
      if (state.InsideCompact(e.window.begin) || state.InsideCompact(e.window.end) ||
          e.window.begin < 0 || e.window.end > e.at || e.window.empty()) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s.window=[%d, %d) does not fit the blocks at %d", where,
                            e.window.begin, e.window.end, e.at));
      }
      applied.kept = FirstSlots(state, e.window, e.method, s.events[i].keep_ratio);
    }
    if (absl::Status status = state.Apply(applied); !status.ok()) {
      return absl::Status(status.code(), where + ": " + std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void PackedBatch::AddRows(Node& node, std::span<const int32_t> tokens) {
  node.row_begin = rows();
  node.count = static_cast<int32_t>(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    ids_.push_back(tokens[i]);
    positions_.push_back(node.position_begin + static_cast<int64_t>(i));
  }
}

int PackedBatch::FindPrompt(const ReplaySequence& s, std::span<const ReplayEvent> events,
                            std::vector<std::span<const int32_t>>& prompts) {
  const auto ids = s.tokens.first(s.prompt_tokens);
  // Groups come one after another: the newest prompt is the likeliest.
  for (int i = static_cast<int>(nodes_.size()) - 1; i >= 0; --i) {
    if (std::equal(ids.begin(), ids.end(), prompts[i].begin(), prompts[i].end()) &&
        SameEvents(events, nodes_[i].events))
      return i;
  }
  return -1;
}

absl::StatusOr<PackedBatch> PackedBatch::Create(std::span<const ReplaySequence> sequences,
                                                context::Shape shape, bool share_prompts) {
  PackedBatch batch;
  batch.shape_ = shape;
  std::vector<int> parents;
  std::vector<std::span<const int32_t>> prompts;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const ReplaySequence& s = sequences[i];
    if (absl::Status status = CheckStructure(s, shape); !status.ok()) {
      return absl::Status(status.code(),
                          absl::StrFormat("sequences[%d].%s", i, std::string(status.message())));
    }
    const auto first_own =
        std::find_if(s.events.begin(), s.events.end(),
                     [&](const ReplayEvent& e) { return e.event.at >= s.prompt_tokens; });
    const std::span<const ReplayEvent> own(s.events.begin(), first_own);
    int parent = s.prompt_tokens == 0 ? -1 : share_prompts ? batch.FindPrompt(s, own, prompts) : -1;
    if (s.prompt_tokens > 0 && parent < 0) {
      parent = static_cast<int>(batch.nodes_.size());
      Node node{.events = {own.begin(), own.end()}};
      batch.AddRows(node, s.tokens.first(s.prompt_tokens));
      prompts.push_back(s.tokens.first(s.prompt_tokens));
      batch.nodes_.push_back(std::move(node));
    }
    parents.push_back(parent);
  }
  batch.prompt_nodes_ = static_cast<int>(batch.nodes_.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const ReplaySequence& s = sequences[i];
    const auto first_own =
        std::find_if(s.events.begin(), s.events.end(),
                     [&](const ReplayEvent& e) { return e.event.at >= s.prompt_tokens; });
    Node node{.position_begin = s.prompt_tokens,
              .parent = parents[i],
              .events = {first_own, s.events.end()}};
    batch.AddRows(node, s.tokens.subspan(s.prompt_tokens, s.rows - s.prompt_tokens));
    batch.nodes_.push_back(std::move(node));
  }
  return batch;
}

}  // namespace palimpsest::attention
