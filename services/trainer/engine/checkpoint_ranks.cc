#include "services/trainer/engine/checkpoint_ranks.h"

#include <utility>

namespace palimpsest::trainer {

absl::Status WriteCheckpointTogether(Collective& ranks, const std::string& root,
                                     CheckpointState state, int keep,
                                     const std::function<absl::Status(const std::string&)>& fill) {
  bool told = false;  // the others, where to write
  const auto together = [&](const std::string& folder) -> absl::Status {
    told = true;
    ASSIGN_OR_RETURN(const std::string where, OfFirst(ranks, folder));
    return where.empty() ? absl::OkStatus() : Agree(ranks, fill(where));
  };
  absl::Status written;
  if (ranks.rank() == 0) {
    written = WriteCheckpoint(root, std::move(state), keep, together);
    if (!told) together("").IgnoreError();  // it came to nothing before there was a folder
  } else {
    together("").IgnoreError();  // rank 0 tells
  }
  return Agree(ranks, written);
}

absl::StatusOr<std::optional<FoundCheckpoint>> NewestCheckpointTogether(Collective& ranks,
                                                                        const std::string& root) {
  absl::StatusOr<std::optional<FoundCheckpoint>> found = std::nullopt;
  absl::StatusOr<std::string> text = "";  // the folder, a newline, the state; empty: none
  if (ranks.rank() == 0) {
    found = NewestCheckpoint(root);
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
