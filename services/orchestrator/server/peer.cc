#include "services/orchestrator/server/peer.h"

#include "absl/strings/str_format.h"
#include "palimpsest/v1/server.pb.h"

namespace palimpsest::orchestrator {

absl::Status CheckIntroduction(const Introduction& introduction, const std::string& role,
                               const std::string& run) {
  if (introduction.revision != v1::CONTRACT_REVISION_CURRENT) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s.revision=%d, ours is %d", role, introduction.revision,
                        static_cast<int>(v1::CONTRACT_REVISION_CURRENT)));
  }
  // The address of a daemon that is gone may have been taken by another one.
  if (introduction.role != role) {
    return absl::UnavailableError(
        absl::StrFormat("at the address of %s answers '%s'", role, introduction.role));
  }
  if (!introduction.run.empty() && introduction.run != run) {
    return absl::UnavailableError(
        absl::StrFormat("%s serves the run '%s', ours is '%s'", role, introduction.run, run));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::orchestrator
