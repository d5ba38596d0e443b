#include "services/inference/core/routing.h"

#include <algorithm>
#include <compare>

#include "common/base/random.h"

namespace palimpsest::inference {
namespace {

// Of one replica in the order; the lowest comes first.
struct Place {
  bool unknown_to, doubtful, old, full;
  uint64_t rank;
  size_t index;
  auto operator<=>(const Place&) const = default;
};

// The load below which a replica of `replicas` takes more without a second thought.
double LoadBound(const std::vector<ReplicaView>& replicas, const Wish& wish, double load_factor) {
  double sum = wish.samples;
  int ready = 0;
  for (const ReplicaView& r : replicas) {
    if (r.standing != Standing::kReady) continue;
    sum += r.load;
    ++ready;
  }
  return ready == 0 ? 0 : load_factor * sum / ready;
}

uint64_t RankOf(const ReplicaView& replica, const Wish& wish) {
  return MixSeed({wish.key, Meaning(replica.name)});
}

}  // namespace

uint64_t AffinityKey(std::string_view content) { return Meaning(content); }

std::vector<size_t> OrderReplicas(const std::vector<ReplicaView>& replicas, const Wish& wish,
                                  double load_factor) {
  const double bound = LoadBound(replicas, wish, load_factor);
  std::vector<Place> places;
  for (size_t i = 0; i < replicas.size(); ++i) {
    const ReplicaView& r = replicas[i];
    if (r.standing == Standing::kAway) continue;
    const bool full = wish.samples > 0 && r.load >= r.room && r.load >= bound;
    places.push_back({.unknown_to = r.name != wish.known_to,
                      .doubtful = r.standing != Standing::kReady,
                      .old = r.version < wish.min_version,
                      .full = full,
                      .rank = RankOf(r, wish),
                      .index = i});
  }
  std::sort(places.begin(), places.end());
  std::vector<size_t> order;
  for (const Place& place : places) order.push_back(place.index);
  return order;
}

Choice ChoiceOf(const std::vector<ReplicaView>& replicas, const Wish& wish, size_t chosen) {
  if (replicas[chosen].name == wish.known_to) return Choice::kKnown;
  const uint64_t rank = RankOf(replicas[chosen], wish);
  const bool is_home = std::all_of(replicas.begin(), replicas.end(),
                                   [&](const ReplicaView& r) { return rank <= RankOf(r, wish); });
  return is_home ? Choice::kHome : Choice::kElsewhere;
}

std::string SentRequests::Find(const std::string& id) const {
  const auto it = replica_of_.find(id);
  return it == replica_of_.end() ? "" : it->second;
}

void SentRequests::Set(const std::string& id, const std::string& replica) {
  if (!replica_of_.insert_or_assign(id, replica).second) return;
  oldest_first_.push_back(id);
  if (oldest_first_.size() <= most_) return;
  replica_of_.erase(oldest_first_.front());
  oldest_first_.pop_front();
}

std::string JoinSession(std::string_view replica, std::string_view id) {
  return std::string(replica) + "/" + std::string(id);
}

std::optional<SessionName> SplitSession(std::string_view name) {
  const size_t slash = name.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == name.size()) {
    return std::nullopt;
  }
  return SessionName{std::string(name.substr(0, slash)), std::string(name.substr(slash + 1))};
}

}  // namespace palimpsest::inference
