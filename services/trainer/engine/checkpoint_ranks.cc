#include "services/trainer/engine/checkpoint_ranks.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace palimpsest::trainer {
namespace {

absl::StatusOr<std::optional<FoundCheckpoint>> Resume(CheckpointFolder& folder, int64_t resume) {
  if (resume < 0) return folder.Newest();
  absl::StatusOr<FoundCheckpoint> found = folder.At(resume);
  if (found.ok()) return *std::move(found);
  return absl::Status(found.status().code(),
                      absl::StrFormat("trainer.resume=%d: %s", resume, found.status().message()));
}

}  // namespace

absl::StatusOr<std::optional<FoundCheckpoint>> ResumeTogether(Collective& ranks,
                                                              CheckpointFolder& folder,
                                                              int64_t resume) {
  absl::StatusOr<std::optional<FoundCheckpoint>> found = std::nullopt;
  absl::StatusOr<std::string> text = "";  // the folder, a newline, the state; empty: none
  if (ranks.rank() == 0) {
    found = Resume(folder, resume);
    if (!found.ok()) {
      text = found.status();
    } else if (*found) {
      text = (*found)->folder + "\n" + ToJson((*found)->state);
    }
  }
  ASSIGN_OR_RETURN(const std::string told, OfFirst(ranks, std::move(text)));
  if (ranks.rank() == 0 || told.empty()) return found;
  const size_t end = told.find('\n');
  ASSIGN_OR_RETURN(CheckpointState state, CheckpointStateFromJson(told.substr(end + 1)));
  return FoundCheckpoint{told.substr(0, end), std::move(state)};
}

}  // namespace palimpsest::trainer
