#pragma once

#include <optional>
#include <string>

#include "common/base/clock.h"
#include "tools/eval/ask_all.h"

namespace palimpsest::tools::eval {

// "[####......] 12/40  3 of them before  2.5/s  1 failed try  left 0:11". `elapsed` since the first
// question of this process.
std::string ProgressText(const Tally& tally, absl::Duration elapsed);

// On stderr: a line drawn over and over where it is a terminal, else one every ten seconds. One
// thread at a time.
class ProgressLine {
 public:
  explicit ProgressLine(Clock& clock);
  void Show(const Tally& tally);
  void End();  // shows the last tally, if there was one

 private:
  void Draw();

  Clock& clock_;
  const bool terminal_;
  const absl::Time begun_;
  absl::Time drawn_ = absl::InfinitePast();
  std::optional<Tally> last_;
};

}  // namespace palimpsest::tools::eval
