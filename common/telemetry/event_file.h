#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace palimpsest {

struct Scalar {
  std::string tag;
  double value = 0;  // stored as a float
};

// A file of scalars that TensorBoard reads. What was added is in the file when Add returns, unless
// the machine goes down; a process that is killed leaves at most one torn record at the end, where
// readers stop. One thread.
class EventFile {
 public:
  // `path` must not be there. TensorBoard takes files whose name contains "tfevents", those of one
  // folder in the order of their names.
  static absl::StatusOr<std::unique_ptr<EventFile>> Create(const std::string& path, absl::Time now);

  absl::Status Add(absl::Time at, int64_t step, const std::vector<Scalar>& scalars);

 private:
  EventFile(std::string path, std::ofstream file)
      : path_(std::move(path)), file_(std::move(file)) {}
  absl::Status Append(const std::string& event);

  const std::string path_;
  std::ofstream file_;
};

// The last step that stands whole in a file written by this class; nullopt when there is none.
std::optional<int64_t> LastStepOfEventFile(const std::string& path);

// CRC-32C (Castagnoli) of `bytes`, as TFRecord masks it.
uint32_t MaskedCrc32c(std::string_view bytes);

}  // namespace palimpsest
