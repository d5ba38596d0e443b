#pragma once

#include <string>

#include "tools/eval/summary.h"

// What is written of a summary. `command`: that was typed, for who reads it later.
namespace palimpsest::tools::eval {

std::string ReportJson(const Summary& summary, const std::string& command);
// Names the picture eval.svg beside it.
std::string ReportPage(const Summary& summary, const std::string& command);
// Per policy two bars with their intervals: pass@1 and the reward, clamped to [0, 1].
std::string ReportPicture(const Summary& summary);

}  // namespace palimpsest::tools::eval
