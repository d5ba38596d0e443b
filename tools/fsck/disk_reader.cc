#include "tools/fsck/disk_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/weights/durable_file.h"
#include "common/weights/seal.h"
#include "common/weights/store.h"

namespace palimpsest::tools {
namespace {

using Json = nlohmann::json;

constexpr char kStateName[] = "state.json";
constexpr int64_t kMaxState = 64 << 20;  // bytes

absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = weights::ListFolder(folder);
  if (absl::IsNotFound(names.status())) return std::vector<std::string>();  // a young run
  return names;
}

absl::Status LookAtVersion(const std::string& folder, StoredVersion& found) {
  ASSIGN_OR_RETURN(
      const std::string text,
      weights::ReadSmallFile(folder + "/" + weights::kManifestName, weights::kMaxManifest));
  ASSIGN_OR_RETURN(found.manifest, weights::ManifestFromJson(text));
  return weights::VerifyFiles(folder, found.manifest.files);
}

absl::Status LookAtState(const std::string& folder, const Json& state, StoredCheckpoint& found) {
  found.step = state.at("step").get<int64_t>();
  found.batches.clear();
  for (const Json& result : state.at("results")) {
    found.batches.emplace_back(result.at("step").get<int64_t>(),
                               result.at("batch_id").get<std::string>());
  }
  found.chain.reset();
  if (state.contains("chain")) {
    const Json& chain = state.at("chain");
    found.chain.emplace().first = chain.at("first").get<int64_t>();
    ASSIGN_OR_RETURN(found.chain->digest,
                     context::Digest::FromHex(chain.at("xxh3").get<std::string>()));
  }
  for (const Json& file : state.at("files")) {
    const weights::ManifestFile written{file.at("name").get<std::string>(),
                                        file.at("size").get<int64_t>(),
                                        file.at("xxh3").get<std::string>()};
    ASSIGN_OR_RETURN(const weights::ManifestFile now, weights::DigestFile(folder, written.name));
    if (!(now == written)) {
      return absl::DataLossError(absl::StrFormat("%s is not what was written", written.name));
    }
  }
  return absl::OkStatus();
}

absl::Status LookAtCheckpoint(const std::string& folder, StoredCheckpoint& found) {
  ASSIGN_OR_RETURN(const std::string text,
                   weights::ReadSmallFile(folder + "/" + kStateName, kMaxState));
  RETURN_IF_ERROR(weights::CheckSeal(folder, kStateName));
  try {
    return LookAtState(folder, Json::parse(text), found);
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrFormat("%s: %s", kStateName, error.what()));
  }
}

// Looks at each folder that `takes` the name of, again where the first look shows damage.
template <class Found>
absl::StatusOr<std::vector<Found>> LookAtEach(const std::string& parent, absl::Duration settle,
                                              bool (*takes)(const std::string& folder,
                                                            const std::string& name),
                                              absl::Status (*look)(const std::string&, Found&)) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(parent));
  std::vector<Found> all;
  for (const std::string& name : names) {
    const std::string folder = parent + "/" + name;
    if (!takes(folder, name)) continue;
    Found found{.folder = name};
    absl::Status status = look(folder, found);
    if (!status.ok()) {
      SystemClock().SleepFor(settle);
      if (!takes(folder, name)) continue;
      status = look(folder, found);
    }
    if (!status.ok()) found.damage = std::string(status.message());
    all.push_back(std::move(found));
  }
  return all;
}

bool Exists(const std::string& folder, std::string_view name) {
  const absl::StatusOr<std::vector<std::string>> names = weights::ListFolder(folder);
  return names.ok() && std::find(names->begin(), names->end(), name) != names->end();
}

}  // namespace

absl::StatusOr<std::vector<StoredVersion>> ReadStore(const std::string& folder,
                                                     absl::Duration settle) {
  return LookAtEach<StoredVersion>(
      folder, settle,
      [](const std::string& path, const std::string& name) {
        return weights::VersionFromFolderName(name).has_value() &&
               Exists(path, weights::kManifestName);
      },
      LookAtVersion);
}

absl::StatusOr<std::vector<StoredCheckpoint>> ReadCheckpoints(const std::string& folder,
                                                              absl::Duration settle) {
  return LookAtEach<StoredCheckpoint>(
      folder, settle,
      [](const std::string& path, const std::string& name) {
        return name.starts_with("step-") && weights::ListFolder(path).ok();
      },
      LookAtCheckpoint);
}

absl::StatusOr<int64_t> NewestSetAside(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(folder));
  int64_t newest = -1;
  for (const std::string& name : names) {
    for (const std::string_view kind : {"broken-step-", "abandoned-step-"}) {
      int64_t step = -1;
      if (name.starts_with(kind) && absl::SimpleAtoi(name.substr(kind.size()), &step)) {
        newest = std::max(newest, step);
      }
    }
  }
  return newest;
}

}  // namespace palimpsest::tools
