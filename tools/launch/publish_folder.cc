#include "tools/launch/publish_folder.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"
#include "common/weights/store.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExtensions[] = {".safetensors", ".json", ".jinja", ".txt"};

// What a model is made of; other files of its folder (weights of other formats, pictures) stay.
bool BelongsToModel(const std::string& name) {
  return weights::IsVersionFileName(name) &&
         std::count(std::begin(kExtensions), std::end(kExtensions), fs::path(name).extension()) > 0;
}

absl::Status LinkOrCopy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  const fs::path file = fs::canonical(from, error);  // caches of models are made of symbolic links
  if (!error) fs::create_hard_link(file, to, error);
  if (error) fs::copy_file(from, to, error);
  if (!error) return absl::OkStatus();
  return weights::IoError(error.value(), "copy", from.string());
}

}  // namespace

absl::StatusOr<PolicyVersion> PublishFolder(const std::string& model, const RunSection& run,
                                            Clock& clock) {
  ASSIGN_OR_RETURN(std::vector<std::string> names, weights::ListFolder(model));
  if (std::count(names.begin(), names.end(), "config.json") == 0) {
    return absl::NotFoundError(absl::StrFormat("%s has no config.json", model));
  }
  std::erase_if(names, [](const std::string& name) { return !BelongsToModel(name); });
  ASSIGN_OR_RETURN(const auto store,
                   weights::StoreWriter::Open(run.StoreFolder(), {.run = run.name}, clock));
  const auto fill = [&](const std::string& folder) -> absl::Status {
    for (const std::string& name : names) {
      RETURN_IF_ERROR(LinkOrCopy(fs::path(model) / name, fs::path(folder) / name));
    }
    return absl::OkStatus();
  };
  ASSIGN_OR_RETURN(const PolicyVersion version, store->Publish(0, fill));
  RETURN_IF_ERROR(store->CollectGarbage().status());
  return version;
}

}  // namespace palimpsest::tools
