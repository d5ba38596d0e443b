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

// The first event that is not of the prompt.
std::vector<ReplayEvent>::const_iterator FirstOwn(const ReplaySequence& s) {
  return std::find_if(s.events.begin(), s.events.end(),
                      [&](const ReplayEvent& e) { return e.event.at >= s.prompt_tokens; });
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
                            const Prompts& prompts) const {
  const auto ids = s.tokens.first(s.prompt_tokens);
  // Groups come one after another: the newest prompt is the likeliest.
  for (int i = static_cast<int>(nodes_.size()) - 1; i >= 0; --i) {
    if (std::equal(ids.begin(), ids.end(), prompts[i].begin(), prompts[i].end()) &&
        SameEvents(events, nodes_[i].events))
      return i;
  }
  return -1;
}

// Made where there is none to share; -1: no prompt.
int PackedBatch::PromptNode(const ReplaySequence& s, bool share, Prompts& prompts) {
  if (s.prompt_tokens == 0) return -1;
  const std::span<const ReplayEvent> own(s.events.begin(), FirstOwn(s));
  const int found = share ? FindPrompt(s, own, prompts) : -1;
  if (found >= 0) return found;
  Node node{.events = {own.begin(), own.end()}};
  AddRows(node, s.tokens.first(s.prompt_tokens));
  prompts.push_back(s.tokens.first(s.prompt_tokens));
  nodes_.push_back(std::move(node));
  return static_cast<int>(nodes_.size()) - 1;
}

absl::StatusOr<PackedBatch> PackedBatch::Build(std::span<const ReplaySequence> sequences,
                                               context::Shape shape, bool share_prompts,
                                               std::span<const int32_t> held_prompt) {
  PackedBatch batch;
  batch.shape_ = shape;
  std::vector<int> parents;
  Prompts prompts;
  if (!held_prompt.empty()) {
    batch.nodes_.push_back({.count = static_cast<int32_t>(held_prompt.size()), .held = true});
    prompts.push_back(held_prompt);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (absl::Status status = CheckStructure(sequences[i], shape); !status.ok()) {
      return absl::Status(status.code(),
                          absl::StrFormat("sequences[%d].%s", i, std::string(status.message())));
    }
    parents.push_back(batch.PromptNode(sequences[i], share_prompts, prompts));
  }
  batch.prompt_nodes_ = static_cast<int>(batch.nodes_.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const ReplaySequence& s = sequences[i];
    Node node{.position_begin = s.prompt_tokens,
              .parent = parents[i],
              .events = {FirstOwn(s), s.events.end()}};
    batch.AddRows(node, s.tokens.subspan(s.prompt_tokens, s.rows - s.prompt_tokens));
    batch.nodes_.push_back(std::move(node));
  }
  if (!held_prompt.empty()) batch.nodes_.front().row_begin = batch.rows();
  return batch;
}

absl::StatusOr<PackedBatch> PackedBatch::Create(std::span<const ReplaySequence> sequences,
                                                context::Shape shape, bool share_prompts) {
  return Build(sequences, shape, share_prompts, {});
}

absl::StatusOr<PackedBatch> PackedBatch::CreateBehind(std::span<const int32_t> held_prompt,
                                                      std::span<const ReplaySequence> sequences,
                                                      context::Shape shape) {
  return Build(sequences, shape, true, held_prompt);
}

}  // namespace palimpsest::attention
