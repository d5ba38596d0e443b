#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "tools/doctor/finding.h"

namespace palimpsest::tools {

// [{"name", "verdict": "pass" | "warn" | "fail", "saw", "todo", "node"?}, ..]; "node" only where
// there is one.
std::string ToJson(const std::vector<Finding>& findings);
absl::StatusOr<std::vector<Finding>> FindingsFromJson(const std::string& text);  // kDataLoss

// "pass", "warn" or "fail".
const char* Name(Verdict verdict);

}  // namespace palimpsest::tools
