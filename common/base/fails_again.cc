#include "common/base/fails_again.h"

#include "absl/strings/cord.h"

namespace palimpsest {
namespace {
constexpr char kMark[] = "palimpsest/fails-again";  // its content means nothing
}

absl::Status MarkFailsAgain(absl::Status status) {
  status.SetPayload(kMark, absl::Cord());
  return status;
}

bool FailsAgain(const absl::Status& status) { return status.GetPayload(kMark).has_value(); }

}  // namespace palimpsest
