#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/weights/safetensors.h"

namespace palimpsest::weights {

// The tensors of a Hugging Face folder: model.safetensors, or else the shards that
// model.safetensors.index.json names. Immutable, any thread; views live as long as the reader.
class CheckpointReader {
 public:
  // kNotFound when the folder holds neither; kDataLoss when the index names a file outside the
  // folder, or a tensor that its shard does not hold.
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& folder);

  absl::StatusOr<TensorView> Find(std::string_view name) const;  // kNotFound
  std::vector<std::string> names() const;                        // ascending

 private:
  CheckpointReader() = default;
  absl::Status OpenShards(const std::string& folder, const std::string& index_path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace palimpsest::weights
