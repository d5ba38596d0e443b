// publish_folder STORE FOLDER: makes the files of FOLDER the next version of a weights store.
#include <cstdio>
#include <filesystem>

#include "common/weights/store.h"

namespace palimpsest {
namespace {

absl::Status Publish(const std::string& store, const std::string& source) {
  ASSIGN_OR_RETURN(const auto writer,
                   weights::StoreWriter::Open(store, {.run = "test"}, SystemClock()));
  const auto fill = [&source](const std::string& folder) {
    std::filesystem::copy(source, folder);
    return absl::OkStatus();
  };
  return writer->Publish(0, fill).status();
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const absl::Status status = palimpsest::Publish(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
