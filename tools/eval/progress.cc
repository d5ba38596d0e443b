#include "tools/eval/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "absl/strings/str_format.h"

namespace palimpsest::tools::eval {
namespace {

constexpr int kBar = 30;  // characters

std::string ClockTime(double seconds) {
  const int64_t whole = std::llround(std::clamp(seconds, 0.0, 1e9));
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

std::string ProgressText(const Tally& t, absl::Duration elapsed) {
  const int64_t done = t.before + t.answered;
  const auto full = static_cast<size_t>(t.wanted > 0 ? kBar * done / t.wanted : kBar);
  std::string text = absl::StrFormat("[%s%s] %d/%d", std::string(full, '#'),
                                     std::string(kBar - full, '.'), done, t.wanted);
  if (t.before > 0) text += absl::StrFormat("  %d of them before", t.before);
  const double seconds = absl::ToDoubleSeconds(elapsed);
  if (t.answered > 0 && seconds > 0) {
    const double rate = static_cast<double>(t.answered) / seconds;
    text += absl::StrFormat("  %.2f/s  left %s", rate,
                            ClockTime(static_cast<double>(t.wanted - done - t.missing) / rate));
  }
  if (t.failures > 0) text += absl::StrFormat("  failed tries %d", t.failures);
  if (t.missing > 0) text += absl::StrFormat("  missing %d", t.missing);
  return text;
}

ProgressLine::ProgressLine(Clock& clock)
    : clock_(clock), terminal_(isatty(STDERR_FILENO) != 0), begun_(clock.Now()) {}

void ProgressLine::Show(const Tally& tally) {
  last_ = tally;
  if (clock_.Now() - drawn_ >= (terminal_ ? absl::Seconds(0.2) : absl::Seconds(10))) Draw();
}

void ProgressLine::End() {
  if (!last_) return;
  Draw();
  if (terminal_) std::cerr << std::endl;
}

void ProgressLine::Draw() {
  drawn_ = clock_.Now();
  const std::string text = ProgressText(*last_, drawn_ - begun_);
  std::cerr << (terminal_ ? "\r\x1b[K" + text : "eval: " + text + "\n") << std::flush;
}

}  // namespace palimpsest::tools::eval
