#pragma once

#include "absl/status/status.h"

namespace palimpsest {

// Marks an error that the next start of a process would meet again, so that nobody starts it for
// nothing. The mark travels with the status; an OK status takes none.
absl::Status MarkFailsAgain(absl::Status status);
bool FailsAgain(const absl::Status& status);

}  // namespace palimpsest
