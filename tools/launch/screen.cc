#include "tools/launch/screen.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>
#include <vector>

#include "absl/strings/str_format.h"
#include "tools/launch/progress_panel.h"

namespace palimpsest::tools {
namespace {

int Columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Screen::Screen() : terminal_(isatty(STDERR_FILENO) != 0) {}

void Screen::Say(const std::string& message) {
  const absl::MutexLock lock(&mu_);
  Wipe();
  std::cerr << "launch: " << message << std::endl;
}

void Screen::Show(const v1::Progress& progress) {
  const absl::MutexLock lock(&mu_);
  if (!terminal_) {
    const std::string line = ProgressLine(progress);
    if (line != last_line_) std::cerr << line << std::endl;
    last_line_ = line;
    return;
  }
  Wipe();
  const std::vector<std::string> panel = ProgressPanel(progress, Columns());
  for (const std::string& line : panel) std::cerr << line << '\n';
  drawn_ = static_cast<int>(panel.size());
  std::cerr.flush();
}

// Puts the cursor where the panel began and clears from there.
void Screen::Wipe() {
  if (drawn_ > 0) std::cerr << absl::StrFormat("\x1b[%dA\x1b[J", drawn_);
  drawn_ = 0;
}

}  // namespace palimpsest::tools
