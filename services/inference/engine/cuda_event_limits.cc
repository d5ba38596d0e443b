#include "services/inference/engine/cuda_event_limits.h"

#include <string>

#include "absl/strings/str_format.h"
#include "common/compaction/cuda/solve.h"

namespace palimpsest::inference {
namespace {

using compaction::kMostKept;
using context::Chooser;
using context::Method;

constexpr int kMostWindow = 16384;  // slots of a window that a device ranks

absl::Status Refused(const char* field, std::string_view value, const char* what) {
  return absl::InvalidArgumentError(
      absl::StrFormat("context.%s=%s: inference.device=cuda %s", field, std::string(value), what));
}

bool Fits(Method method) { return method == Method::kAttentionMatching; }
bool Ranks(Method method, const context::Parameters& p) {
  return Fits(method) || (method == Method::kEvict && p.chooser == Chooser::kAttention);
}

absl::Status CheckKind(Method method, const context::Parameters& p, bool forced) {
  if (!forced && context::Carries(method, p.chooser))
    return Refused("parameters.chooser", Name(p.chooser), "knows no chooser that carries");
  if (!Fits(method) && (forced || !Ranks(method, p))) return absl::OkStatus();
  if (Fits(method) && !forced && p.chooser != Chooser::kRms)
    return Refused("parameters.chooser", Name(p.chooser), "chooses by rms alone");
  if (p.reference_kind != context::ReferenceKind::kQueries)
    return Refused("parameters.reference_kind", Name(p.reference_kind), "listens to queries alone");
  if (p.holdout_every != 0)
    return Refused("parameters.holdout_every", std::to_string(p.holdout_every),
                   "holds no query out");
  return absl::OkStatus();
}

// A trigger whose windows have so many slots of the longest head.
absl::Status CheckWindow(const context::ContextPolicy& policy, const char* trigger, int32_t window,
                         double keep_ratio) {
  if (Ranks(policy.method, policy.parameters) && window > kMostWindow) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "context.%s.window=%d: inference.device=cuda chooses among at most %d slots", trigger,
        window, kMostWindow));
  }
  const int kept = context::KeptCount(policy.method, keep_ratio, window);
  if (!Fits(policy.method) || kept <= kMostKept) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "context.%s.keep_ratio=%g keeps %d of window=%d slots: inference.device=cuda fits at most %d",
      trigger, keep_ratio, kept, window, kMostKept));
}

}  // namespace

absl::Status CheckDevicePolicy(const context::ContextPolicy& policy) {
  if (std::holds_alternative<context::NoTrigger>(policy.trigger)) return absl::OkStatus();
  RETURN_IF_ERROR(CheckKind(policy.method, policy.parameters, false));
  if (const auto* t = std::get_if<context::KvBudget>(&policy.trigger))
    return CheckWindow(policy, "kv_budget", t->window, t->keep_ratio);
  if (const auto* t = std::get_if<context::Segments>(&policy.trigger))
    return CheckWindow(policy, "segments", t->window, t->keep_ratio);
  return absl::OkStatus();  // turns and manual: when their windows are known
}

absl::Status CheckDeviceForced(const context::Event& event) {
  RETURN_IF_ERROR(CheckKind(event.method, event.parameters, true));
  if (!Fits(event.method) || event.kept.max_count() <= kMostKept) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("the event at=%d has kept=%d positions of a head: inference.device=cuda fits "
                      "at most %d",
                      event.at, event.kept.max_count(), kMostKept));
}

absl::Status CheckDeviceWindow(const attention::ReplayEvent& request, bool fitted, bool ranked,
                               int width, int kept) {
  const context::Event& e = request.event;
  if (fitted && kept > kMostKept) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "context: window=[%d, %d) of the event at=%d keeps %d of a head's %d slots: "
        "inference.device=cuda fits at most %d; a lower keep_ratio or a shorter window",
        e.window.begin, e.window.end, e.at, kept, width, kMostKept));
  }
  if (ranked && width > kMostWindow) {
    return absl::InvalidArgumentError(
        absl::StrFormat("context: window=[%d, %d) of the event at=%d has %d slots of a head: "
                        "inference.device=cuda chooses among at most %d",
                        e.window.begin, e.window.end, e.at, width, kMostWindow));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::inference
