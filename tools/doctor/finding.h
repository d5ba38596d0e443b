#pragma once

#include <string>

namespace palimpsest::tools {

enum class Verdict { kPass, kWarn, kFail };

// One row of the table. A warning lets a run go on, slower or with less room; a failure does not.
struct Finding {
  std::string name;
  Verdict verdict = Verdict::kPass;
  std::string saw;
  std::string todo;  // empty when it passes
  std::string node;  // of a job, where it was seen; empty: here, or everywhere
};

}  // namespace palimpsest::tools
