#include "tools/launch/progress_panel.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::tools {
namespace {

std::string PhaseName(v1::RunPhase phase) {
  switch (phase) {
    case v1::RUN_PHASE_STARTING:
      return "starting";
    case v1::RUN_PHASE_SFT:
      return "sft";
    case v1::RUN_PHASE_RL:
      return "rl";
    case v1::RUN_PHASE_EVALUATION:
      return "evaluation";
    case v1::RUN_PHASE_REPORT:
      return "report";
    case v1::RUN_PHASE_DONE:
      return "done";
    case v1::RUN_PHASE_FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

// "1:02:03", "4:05".
std::string ClockTime(double seconds) {
  const int64_t whole = std::llround(std::clamp(seconds, 0.0, 1e9));
  if (whole >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
  }
  return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
}

std::string Left(const v1::Progress& p) {
  return p.has_left_seconds() ? ClockTime(p.left_seconds()) : "-";
}

std::string Reward(const v1::Progress& p) {
  return p.has_reward() ? absl::StrFormat("%.3f", p.reward()) : "-";
}

std::string Version(const v1::Progress& p) {
  return p.policy_version() < 0 ? "-" : absl::StrFormat("%d", p.policy_version());
}

// "rl 10/40"; a phase that counts no steps stands alone.
std::string Where(const v1::Progress& p) {
  if (p.total_steps() <= 0) return PhaseName(p.phase());
  return absl::StrFormat("%s %d/%d", PhaseName(p.phase()), p.step(), p.total_steps());
}

std::string MismatchKl(const v1::Progress& p) {
  return p.has_mismatch_kl() ? absl::StrFormat("%.1e", p.mismatch_kl()) : "-";
}

std::string Bar(const v1::Progress& p, int columns) {
  const double share =
      p.total_steps() > 0 ? std::clamp(double(p.step()) / double(p.total_steps()), 0.0, 1.0) : 0;
  const int full = static_cast<int>(share * columns);
  return std::string(full, '#') + std::string(columns - full, '.');
}

std::string Peers(const v1::Progress& p) {
  std::string text;
  for (const v1::PeerState& peer : p.peers()) {
    text += absl::StrFormat("%s%s-%d %s", text.empty() ? "" : "   ", peer.role(), peer.rank(),
                            peer.ready() ? "ready" : "away");
  }
  return text;
}

std::string Heldout(const v1::Progress& p) {
  std::string text;
  for (const v1::HeldoutResult& result : p.heldout()) {
    text += absl::StrFormat("   step %d: %.3f (greedy %.3f)", result.step(), result.reward(),
                            result.greedy_reward());
  }
  return text.empty() ? "   -" : text;
}

}  // namespace

std::string ProgressLine(const v1::Progress& p) {
  return absl::StrFormat(
      "%s  reward %s  %.0f tokens/s  %.1f events  staleness %d  mismatch %s  version %s  left %s",
      Where(p), Reward(p), p.tokens_per_second(), p.events_per_rollout(), p.staleness_max(),
      MismatchKl(p), Version(p), Left(p));
}

std::vector<std::string> ProgressPanel(const v1::Progress& p, int columns) {
  std::vector<std::string> lines;
  lines.push_back(absl::StrFormat("%s   %s   elapsed %s   left %s", p.run(), Where(p),
                                  ClockTime(p.elapsed_seconds()), Left(p)));
  lines.push_back("[" + Bar(p, std::clamp(columns - 2, 0, 76)) + "]");
  lines.push_back(absl::StrFormat(
      "reward %s   %.0f tokens/s   %.1f events per rollout   staleness %d   mismatch KL %s",
      Reward(p), p.tokens_per_second(), p.events_per_rollout(), p.staleness_max(), MismatchKl(p)));
  lines.push_back(absl::StrFormat("version %s   held out%s", Version(p), Heldout(p)));
  lines.push_back(Peers(p));
  if (!p.failure().empty()) lines.push_back("failure: " + p.failure());
  for (std::string& line : lines) line = line.substr(0, std::max(columns, 0));
  return lines;
}

}  // namespace palimpsest::tools
