#include "common/weights/checkpoint_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/weights/checked_json.h"
#include "common/weights/durable_file.h"

namespace palimpsest::weights {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndex = 100'000'000;  // bytes

bool IsShardName(std::string_view name) {
  return name.ends_with(".safetensors") && !name.starts_with('.') &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(
    const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> listed, ListFolder(folder));
  const auto holds = [&](const char* name) {
    return std::binary_search(listed.begin(), listed.end(), name);
  };
  std::unique_ptr<CheckpointReader> reader(new CheckpointReader);
  if (holds(kSingle)) {
    ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(folder + "/" + kSingle));
    reader->tensors_.insert(file->tensors().begin(), file->tensors().end());
    reader->files_.push_back(std::move(file));
    return reader;
  }
  if (!holds(kIndex)) {
    return absl::NotFoundError(
        absl::StrFormat("%s holds neither %s nor %s", folder, kSingle, kIndex));
  }
  RETURN_IF_ERROR(reader->OpenShards(folder, folder + "/" + kIndex));
  return reader;
}

absl::Status CheckpointReader::OpenShards(const std::string& folder,
                                          const std::string& index_path) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(index_path, kMaxIndex));
  const auto refuse = [&](const std::string& why) {
    return absl::DataLossError(index_path + ": " + why);
  };
  const auto index = ParseObject(text);
  if (!index.ok()) return refuse(std::string(index.status().message()));
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object()) return refuse("weight_map is not an object");
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [tensor, value] : map->items()) {
    if (!value.is_string() || !IsShardName(value.get_ref<const std::string&>())) {
      return refuse("weight_map." + tensor + " is not a safetensors file of this folder");
    }
    const auto& shard_name = value.get_ref<const std::string&>();
    const SafetensorsFile*& shard = shards[shard_name];
    if (shard == nullptr) {
      ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(folder + "/" + shard_name));
      shard = file.get();
      files_.push_back(std::move(file));
    }
    const auto found = shard->tensors().find(tensor);
    if (found == shard->tensors().end()) {
      return refuse("tensor " + tensor + " is not in " + shard_name);
    }
    tensors_.emplace(tensor, found->second);
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorView> CheckpointReader::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrFormat("no tensor named %s in the checkpoint", name));
  }
  return found->second;
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : tensors_) names.push_back(name);
  return names;
}

}  // namespace palimpsest::weights
