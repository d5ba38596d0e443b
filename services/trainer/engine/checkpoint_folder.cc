#include "services/trainer/engine/checkpoint_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "common/weights/durable_file.h"
#include "common/weights/seal.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;

constexpr char kStateName[] = "state.json";
constexpr std::string_view kPrefix = "step-";
constexpr int64_t kMaxState = 64 << 20;  // bytes

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

std::string FolderOf(const std::string& root, int64_t step) {
  return absl::StrFormat("%s/%s%08d", root, std::string(kPrefix), step);
}

// Steps that have a folder, ascending.
absl::StatusOr<std::vector<int64_t>> ListSteps(const std::string& root) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(root));
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    int64_t step = 0;
    if (name.starts_with(kPrefix) && absl::SimpleAtoi(name.substr(kPrefix.size()), &step)) {
      steps.push_back(step);
    }
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

absl::Status FillFolder(const std::string& folder, CheckpointState& state,
                        const std::function<absl::Status(const std::string&)>& fill) {
  RETURN_IF_ERROR(fill(folder));
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

absl::Status WriteCheckpoint(const std::string& root, CheckpointState state, int keep,
                             const std::function<absl::Status(const std::string& folder)>& fill) {
  RETURN_IF_ERROR(MakeFolder(root));
  RETURN_IF_ERROR(DeleteLeftovers(root));
  const std::string temporary = root + "/" + weights::TemporaryName();
  const std::string folder = FolderOf(root, state.ledger.step());
  RETURN_IF_ERROR(MakeFolder(temporary));
  RETURN_IF_ERROR(FillFolder(temporary, state, fill));
  RETURN_IF_ERROR(DeleteWhole(root, folder));
  if (std::rename(temporary.c_str(), folder.c_str()) != 0) {
    return weights::IoError(errno, "rename to", folder);
  }
  RETURN_IF_ERROR(weights::SyncPath(root));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListSteps(root));
  for (size_t i = 0; i + static_cast<size_t>(keep) < steps.size(); ++i) {
    RETURN_IF_ERROR(DeleteWhole(root, FolderOf(root, steps[i])));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<FoundCheckpoint>> NewestCheckpoint(const std::string& root) {
  RETURN_IF_ERROR(MakeFolder(root));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListSteps(root));
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::string folder = FolderOf(root, *step);
    absl::StatusOr<FoundCheckpoint> found = Open(folder);
    if (found.ok() && found->state.ledger.step() == *step) return *std::move(found);
    Log(Severity::kError, "checkpoint passed over: it is broken",
        {{"folder", folder}, {"why", found.status().ToString()}});
  }
  if (!steps.empty()) {
    return absl::DataLossError(
        absl::StrFormat("%s: all %d checkpoints are broken", root, steps.size()));
  }
  return std::nullopt;
}

absl::StatusOr<int64_t> NextAttempt(const std::string& root) {
  RETURN_IF_ERROR(MakeFolder(root));
  const std::string path = root + "/attempt";
  const absl::StatusOr<std::string> text = weights::ReadSmallFile(path, 64);
  int64_t attempt = 0;
  if (text.ok()) {
    if (!absl::SimpleAtoi(*text, &attempt) || attempt < 0) {
      return absl::DataLossError(absl::StrFormat("%s holds no number", path));
    }
    ++attempt;
  } else if (!absl::IsNotFound(text.status())) {
    return text.status();
  }
  RETURN_IF_ERROR(weights::WriteFileDurably(path, absl::StrFormat("%d\n", attempt)));
  return attempt;
}

}  // namespace palimpsest::trainer
