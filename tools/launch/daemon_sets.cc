#include "tools/launch/daemon_sets.h"

#include "absl/strings/str_format.h"

namespace palimpsest::tools {

std::vector<std::string> SetsOf(std::string_view role, int rank, const PlacementSection& place,
                                const std::string* node) {
  std::vector<std::string> sets;
  const RolePlacement& own = place.Of(role);
  if (own.processes() > 1) sets.push_back(absl::StrFormat("%s.rank=%d", role, rank));
  if (own.ranks > 1) sets.push_back(absl::StrFormat("%s.ranks=%d", role, own.ranks));
  if (place.router.replicas > 0 && (role == "inference" || role == "router")) {
    sets.push_back(absl::StrFormat("router.enabled=%s", role == "router" ? "true" : "false"));
  }
  if (role == kLeader) {
    for (const std::string_view peer : {"inference", "env"}) {
      const int count = place.Of(peer).replicas;
      if (count > 1) sets.push_back(absl::StrFormat("orchestrator.peers.%s=%d", peer, count));
    }
  }
  if (node == nullptr) return sets;
  // Certificates or `<role>.insecure` are the user's to give: the daemon refuses this without.
  for (const char* key : {"listen", "metrics"}) {
    sets.push_back(absl::StrFormat("%s.%s=0.0.0.0:0", role, key));
  }
  sets.push_back(absl::StrFormat("%s.advertise=%s", role, *node));
  return sets;
}

}  // namespace palimpsest::tools
