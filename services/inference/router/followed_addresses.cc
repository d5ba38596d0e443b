#include "services/inference/router/followed_addresses.h"

#include <charconv>
#include <filesystem>
#include <string_view>

#include "common/rpc/address.h"

namespace palimpsest::inference {
namespace {

constexpr std::string_view kRole = "inference";

// 3 of "inference-3"; -1: another file.
int RankOf(std::string_view name) {
  if (!name.starts_with(kRole) || name.size() <= kRole.size() + 1 || name[kRole.size()] != '-') {
    return -1;
  }
  int rank = -1;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kRole.size() + 1, end, rank);
  return rest == end && error == std::errc() ? rank : -1;
}

}  // namespace

std::map<std::string, std::string> FollowedAddresses(const std::string& run_folder) {
  std::map<std::string, std::string> found;
  std::error_code gone;
  for (std::filesystem::directory_iterator it(run_folder + "/addresses", gone), end;
       !gone && it != end; it.increment(gone)) {
    const std::string name = it->path().filename();
    const int rank = RankOf(name);
    if (rank < 0) continue;
    const auto address = ReadAddress(run_folder, kRole, rank);
    if (address.ok()) found.emplace(name, address->host_port);
  }
  return found;
}

}  // namespace palimpsest::inference
