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
};

}  // namespace palimpsest::tools
