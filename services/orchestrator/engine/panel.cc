#include "services/orchestrator/engine/panel.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace palimpsest::orchestrator {
namespace {

constexpr int kColumns = 100;
constexpr int kBar = 30;

std::string Bar(int64_t step, int64_t total) {
  const auto full = static_cast<int>(std::min<int64_t>(kBar, kBar * step / total));
  return std::string(static_cast<size_t>(full), '#') +
         std::string(static_cast<size_t>(kBar - full), '.');
}

// Phases that do not count steps show none.
std::string Steps(const Progress& p) {
  if (p.total_steps <= 0) return "";
  return absl::StrFormat("[%s] step %d/%d", Bar(p.step, p.total_steps), p.step, p.total_steps);
}

std::string Clock(double seconds) {
  const auto s = static_cast<int64_t>(seconds);
  return absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
}

std::string Maybe(const std::optional<double>& value, const char* format) {
  if (!value.has_value()) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), format, *value);
  return text;
}

}  // namespace

std::string PanelText(const Progress& p, int width) {
  std::string text = absl::StrFormat("%s  %s  %s\n", p.run, p.stage, Steps(p));
  text += absl::StrFormat("reward %s   %.0f tokens/s   %.1f events/rollout   %.0f tokens/rollout\n",
                          Maybe(p.reward, "%.3f"), p.tokens_per_second, p.events_per_rollout,
                          p.mean_total_tokens);
  text += absl::StrFormat("staleness %d   mismatch kl %s max %s   weights %s\n", p.staleness_max,
                          Maybe(p.mismatch_kl, "%.1e"), Maybe(p.mismatch_max_abs, "%.1e"),
                          p.policy_version < 0 ? "-" : absl::StrFormat("v%d", p.policy_version));
  for (const HeldoutMean& h : p.heldout) {
    text += absl::StrFormat("held-out at step %d: %.3f (greedy %.3f, %d prompts)\n", h.step,
                            h.reward, h.greedy, h.prompts);
  }
  text += absl::StrFormat("elapsed %s   left %s\n", Clock(p.elapsed_seconds),
                          p.left_seconds.has_value() ? Clock(*p.left_seconds) : "-");
  if (!p.failure.empty()) text += "failed: " + p.failure + "\n";
  std::string cut;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n'))) {
    if (!line.empty()) cut += line.substr(0, static_cast<size_t>(width)) + "\n";
  }
  return cut;
}

void Panel::Draw(const Progress& progress) {
  const std::string text = PanelText(progress, kColumns);
  // Up over the last drawing, then clear to the end of the screen.
  if (lines_ > 0) std::fprintf(stderr, "\x1b[%dA\x1b[J", lines_);
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  lines_ = static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace palimpsest::orchestrator
