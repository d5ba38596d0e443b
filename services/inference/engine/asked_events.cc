#include "absl/strings/str_format.h"
#include "services/inference/engine/running_batch.h"

// Events that a session's caller asks for, between two steps.
namespace palimpsest::inference {
namespace {

absl::Status Differs(const char* field) {
  return absl::InvalidArgumentError(
      absl::StrFormat("forced.%s is not that of the session's event here", field));
}

// Is `forced` what the policy drafts, with positions that this log allows?
absl::Status CheckForced(const Sequence& s, const context::EventDraft& draft,
                         const context::Event& forced) {
  if (forced.at != draft.at) {
    return absl::InvalidArgumentError(
        absl::StrFormat("forced.at=%d, but the event falls at %d", forced.at, draft.at));
  }
  if (forced.method != draft.method) return Differs("method");
  if (!(forced.parameters == draft.parameters)) return Differs("parameters");
  if (!(forced.reference == draft.reference)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "forced.reference=[%d, %d), but the event listens to [%d, %d)", forced.reference.begin,
        forced.reference.end, draft.reference.begin, draft.reference.end));
  }
  context::ContextState after = s.cache->state();
  if (const absl::Status allowed = after.Apply(forced); !allowed.ok()) {
    return absl::InvalidArgumentError(absl::StrFormat("forced.%s", std::string(allowed.message())));
  }
  if (!forced.digest) return absl::OkStatus();
  const context::Event* last = s.events.empty() ? nullptr : &s.events.back();
  const context::Digest digest = context::ChainDigest(last ? last->digest : std::nullopt,
                                                      last ? last->at : 0, s.tokens, forced);
  return digest == *forced.digest ? absl::OkStatus() : Differs("digest");
}

}  // namespace

// Its window and its positions are only now known to fit or not.
void RunningBatch::ConsiderAsked(Sequence& s, std::vector<DueEvent>& due) {
  if (s.compacted) return;
  const GenerationRequest& r = s.owner->request;
  const std::optional<context::Event>& forced = r.step->forced;
  const bool again = !s.events.empty() && s.events.back().at == s.processed() &&
                     s.events.back().window == *r.step->compact &&
                     (!forced || forced->kept == s.events.back().kept);
  if (again) {  // asked for twice: the same event
    s.owner->sink->OnEvent(s.sample, s.events.back());
    s.stopped = StopCause::kLength;
    return End(s);
  }
  const auto draft = context::DraftManual(r.context, s.PolicyView(), *r.step->compact);
  absl::Status status = draft.status();
  if (status.ok() && forced) status = CheckForced(s, *draft, *forced);
  if (status.ok()) {
    s.compacted = true;
    due.push_back({.sequence = &s, .draft = *draft, .kept = forced ? &forced->kept : nullptr});
  } else {
    s.stopped = StopCause::kLength;
    Fail(s, status, false, rl::Outcome::kCancelled);
  }
}

}  // namespace palimpsest::inference
