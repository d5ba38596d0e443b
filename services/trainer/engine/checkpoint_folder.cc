#include "services/trainer/engine/checkpoint_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/telemetry/log.h"
#include "common/weights/durable_file.h"
#include "common/weights/seal.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;

constexpr char kStateName[] = "state.json";
constexpr std::string_view kPrefix = "step-";
constexpr int64_t kMaxState = 64 << 20;      // bytes
constexpr int64_t kMaxAttempt = 1 << 30;     // the contract has 32 bits
constexpr char kBroken[] = "broken-";        // before the name of a folder that is set aside
constexpr char kAbandoned[] = "abandoned-";  // likewise

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? weights::IoError(error.value(), "make", path) : absl::OkStatus();
}

absl::Status DeleteTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? weights::IoError(error.value(), "delete", path) : absl::OkStatus();
}

// A kill in the middle leaves a temporary folder, which the next writer deletes, and no checkpoint
// that lacks files.
absl::Status DeleteWhole(const std::string& root, const std::string& folder) {
  const std::string leftover = root + "/" + weights::TemporaryName();
  if (std::rename(folder.c_str(), leftover.c_str()) != 0) {
    return errno == ENOENT ? absl::OkStatus() : weights::IoError(errno, "rename", folder);
  }
  return DeleteTree(leftover);
}

std::string NameOf(int64_t step) { return absl::StrFormat("%s%08d", std::string(kPrefix), step); }
std::string FolderOf(const std::string& root, int64_t step) { return root + "/" + NameOf(step); }

// Steps that have a folder, ascending.
absl::StatusOr<std::vector<int64_t>> ListSteps(const std::string& root) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(root));
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    int64_t step = 0;
    if (!name.starts_with(kPrefix)) continue;
    const bool read = absl::SimpleAtoi(name.substr(kPrefix.size()), &step);
    if (read && name == NameOf(step)) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::Status DeleteLeftovers(const std::string& root) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(root));
  for (const std::string& name : names) {
    if (name.starts_with(weights::kTemporaryPrefix)) {
      RETURN_IF_ERROR(DeleteTree(root + "/" + name));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteState(const std::string& folder, CheckpointState& state) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(folder));
  state.files.clear();
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(weights::ManifestFile file, weights::DigestFile(folder, name));
    RETURN_IF_ERROR(weights::SyncPath(folder + "/" + name));
    state.files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(weights::WriteFileDurably(folder + "/" + kStateName, ToJson(state)));
  return weights::SealFile(folder, kStateName);
}

absl::StatusOr<FoundCheckpoint> Open(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string text,
                   weights::ReadSmallFile(folder + "/" + kStateName, kMaxState));
  RETURN_IF_ERROR(weights::CheckSeal(folder, kStateName));
  ASSIGN_OR_RETURN(CheckpointState state, CheckpointStateFromJson(text));
  for (const weights::ManifestFile& file : state.files) {
    ASSIGN_OR_RETURN(const weights::ManifestFile found, weights::DigestFile(folder, file.name));
    if (!(found == file)) {
      return absl::DataLossError(
          absl::StrFormat("%s/%s is not what was written", folder, file.name));
    }
  }
  return FoundCheckpoint{folder, std::move(state)};
}

}  // namespace

absl::StatusOr<FoundCheckpoint> CheckpointFolder::Look(int64_t step) const {
  ASSIGN_OR_RETURN(FoundCheckpoint found, Open(FolderOf(root_, step)));
  if (found.state.ledger.step() == step) return found;
  return absl::DataLossError(
      absl::StrFormat("%s holds the state of step %d", found.folder, found.state.ledger.step()));
}

absl::StatusOr<std::optional<FoundCheckpoint>> CheckpointFolder::Newest() {
  RETURN_IF_ERROR(MakeFolder(root_));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListSteps(root_));
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    absl::StatusOr<FoundCheckpoint> found = Look(*step);
    if (found.ok()) {
      whole_.insert(*step);
      from_ = *step;
      return *std::move(found);
    }
    broken_[*step] = found.status().ToString();
    Log(Severity::kError, "checkpoint passed over: it is broken",
        {{"folder", FolderOf(root_, *step)}, {"why", broken_[*step]}});
  }
  if (!steps.empty()) {
    return absl::DataLossError(
        absl::StrFormat("%s: all %d checkpoints are broken", root_, steps.size()));
  }
  return std::nullopt;
}

absl::StatusOr<FoundCheckpoint> CheckpointFolder::At(int64_t step) {
  RETURN_IF_ERROR(MakeFolder(root_));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListSteps(root_));
  if (std::find(steps.begin(), steps.end(), step) == steps.end()) {
    return absl::NotFoundError(
        absl::StrFormat("no checkpoint of step %d stands in %s; there are: %s", step, root_,
                        steps.empty() ? "none" : absl::StrJoin(steps, ", ")));
  }
  absl::StatusOr<FoundCheckpoint> found = Look(step);
  if (!found.ok()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the checkpoint is broken: %s; there are: %s", found.status().ToString(),
                        absl::StrJoin(steps, ", ")));
  }
  whole_.insert(step);
  from_ = step;
  for (const int64_t newer : steps) {
    if (newer <= step) continue;
    if (const absl::Status looked = Look(newer).status(); !looked.ok()) {
      broken_[newer] = looked.ToString();
    }
    Log(Severity::kWarning, "checkpoint passed over: an older one was asked for",
        {{"folder", FolderOf(root_, newer)},
         {"broken", broken_.contains(newer) ? broken_[newer] : "no"}});
  }
  return *std::move(found);
}

absl::Status CheckpointFolder::SetAside(int64_t step, const std::string& why, const char* kind) {
  const std::string folder = FolderOf(root_, step), aside = root_ + "/" + kind + NameOf(step);
  RETURN_IF_ERROR(DeleteWhole(root_, aside));
  if (std::rename(folder.c_str(), aside.c_str()) != 0) {
    return weights::IoError(errno, "set aside", folder);
  }
  Log(Severity::kWarning, "checkpoint set aside: it is no longer of the run",
      {{"folder", folder}, {"now", aside}, {"why", why}});
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(root_));
  for (const std::string& name : names) {
    const bool before =
        name.starts_with(std::string(kind) + std::string(kPrefix)) && name != kind + NameOf(step);
    if (before) RETURN_IF_ERROR(DeleteWhole(root_, root_ + "/" + name));
  }
  return absl::OkStatus();
}

// Ascending, so that of each kind the newest is left.
absl::Status CheckpointFolder::SetNewerAside() {
  if (!from_) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListSteps(root_));
  for (const int64_t step : steps) {
    if (step <= *from_) continue;
    const auto broken = broken_.find(step);
    RETURN_IF_ERROR(
        broken != broken_.end()
            ? SetAside(step, broken->second, kBroken)
            : SetAside(step, absl::StrFormat("the run went on from step %d", *from_), kAbandoned));
  }
  from_.reset();
  return absl::OkStatus();
}

absl::Status CheckpointFolder::DeleteOld() {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListSteps(root_));
  int whole = 0;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    if (whole >= keep_.newest) {
      if (keep_.every > 0 && *step % keep_.every == 0) continue;
      RETURN_IF_ERROR(DeleteWhole(root_, FolderOf(root_, *step)));
      whole_.erase(*step);
      continue;
    }
    absl::Status looked;
    if (!whole_.contains(*step)) looked = Look(*step).status();
    if (looked.ok()) {
      whole_.insert(*step);
      ++whole;
    } else {
      RETURN_IF_ERROR(SetAside(*step, looked.ToString(), kBroken));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> CheckpointFolder::Begin() {
  RETURN_IF_ERROR(MakeFolder(root_));
  RETURN_IF_ERROR(DeleteLeftovers(root_));
  const std::string begun = root_ + "/" + weights::TemporaryName();
  RETURN_IF_ERROR(MakeFolder(begun));
  return begun;
}

void CheckpointFolder::Drop(const std::string& begun) { DeleteTree(begun).IgnoreError(); }

absl::Status CheckpointFolder::Name(const std::string& begun, int64_t step) {
  const std::string folder = FolderOf(root_, step);
  RETURN_IF_ERROR(SetNewerAside());
  RETURN_IF_ERROR(DeleteWhole(root_, folder));
  if (std::rename(begun.c_str(), folder.c_str()) != 0) {
    return weights::IoError(errno, "rename to", folder);
  }
  return weights::SyncPath(root_);
}

absl::Status CheckpointFolder::Commit(const std::string& begun, CheckpointState state) {
  const int64_t step = state.ledger.step();
  absl::Status written = WriteState(begun, state);
  if (written.ok()) written = Name(begun, step);
  if (!written.ok()) {
    Drop(begun);  // the disk may be full
    return written;
  }
  whole_.insert(step);
  if (const absl::Status deleted = DeleteOld(); !deleted.ok()) {
    Log(Severity::kWarning, "old checkpoints stay", {{"why", deleted.ToString()}});
  }
  return absl::OkStatus();
}

int64_t CheckpointFolder::Durable() const {
  for (auto step = whole_.rbegin(); step != whole_.rend(); ++step) {
    std::error_code ignored;
    if (fs::exists(FolderOf(root_, *step) + "/" + kStateName, ignored)) return *step;
  }
  return 0;
}

absl::StatusOr<int64_t> NextAttempt(const std::string& root, int64_t used) {
  RETURN_IF_ERROR(MakeFolder(root));
  const std::string path = root + "/attempt";
  const absl::StatusOr<std::string> text = weights::ReadSmallFile(path, 64);
  if (!text.ok() && !absl::IsNotFound(text.status()) && !absl::IsResourceExhausted(text.status())) {
    return text.status();
  }
  int64_t last = -1;
  const bool fresh = absl::IsNotFound(text.status()) && used < 0;
  const bool read = text.ok() && absl::SimpleAtoi(*text, &last) && last >= 0 && last < kMaxAttempt;
  if (!fresh && (!read || last < used)) {
    Log(Severity::kWarning, "the number of this attempt is taken from the store",
        {{"file", path},
         {"why", read ? "the file holds a lower one" : "the file holds no number"},
         {"attempt", used + 1}});
    last = used;
  }
  const int64_t attempt = last + 1;
  RETURN_IF_ERROR(weights::WriteFileDurably(path, absl::StrFormat("%d\n", attempt)));
  return attempt;
}

}  // namespace palimpsest::trainer
