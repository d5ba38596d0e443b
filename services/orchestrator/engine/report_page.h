#pragma once

#include <string>

#include "services/orchestrator/engine/report.h"

namespace palimpsest::orchestrator {

// The report as a page of Markdown: numbers, the curve, and one held-out prompt before and after.
absl::StatusOr<std::string> ReportPage(const Workplace& place, const ReportFacts& facts);

}  // namespace palimpsest::orchestrator
