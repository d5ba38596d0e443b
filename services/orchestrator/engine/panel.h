#pragma once

#include <string>

#include "services/orchestrator/core/progress.h"

namespace palimpsest::orchestrator {

// The progress of a run as a few lines of text, at most `width` columns each.
std::string PanelText(const Progress& progress, int width);

// Draws the panel on a terminal and redraws it in place. One thread.
class Panel {
 public:
  void Draw(const Progress& progress);

 private:
  int lines_ = 0;  // of the last drawing
};

}  // namespace palimpsest::orchestrator
