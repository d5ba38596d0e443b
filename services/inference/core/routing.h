#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// Which of several replicas is asked: pure decisions over what a router knows of them.
namespace palimpsest::inference {

enum class Standing {
  kReady,     // admits and works
  kDoubtful,  // did not answer just now, or is paused: asked when nobody better is left
  kAway,      // starting, draining, silent or unfit: not asked
};

struct ReplicaView {
  std::string name;  // stays the same over restarts
  Standing standing = Standing::kAway;
  int64_t version = 0;  // of its live weights
  int32_t load = 0;     // samples that run or wait there
  int32_t room = 1;     // samples that it decodes together
  bool operator==(const ReplicaView&) const = default;
};

struct Wish {
  uint64_t key = 0;     // requests of equal keys belong together
  int32_t samples = 0;  // that the request adds to a load; 0: loads are not looked at
  int64_t min_version = 0;
  std::string known_to;  // the replica that was asked for this request before; empty: none
};

// A key that is stable over processes and machines.
uint64_t AffinityKey(std::string_view content);

// Indices into `replicas` in the order in which they are to be asked; those that are away are left
// out. Rendezvous hashing: a key ranks the names, so when one comes or goes only its keys move.
// Four things come before that rank:
//   1. the replica that knows the request: a repeated one must not become two generations;
//   2. who is ready, before who is doubtful;
//   3. weights of at least `min_version`, as far as is known;
//   4. bounded load: a replica with no free row (load >= room) and a load of at least
//      load_factor * (all loads of the ready + samples) / ready comes after the others.
std::vector<size_t> OrderReplicas(const std::vector<ReplicaView>& replicas, const Wish& wish,
                                  double load_factor);

// Why a replica was asked first.
enum class Choice {
  kHome,       // it is the first of all for this key, also of those that are away
  kKnown,      // it knows the request
  kElsewhere,  // the home is away, doubtful, old or full
};
// `chosen`: an index into `replicas`.
Choice ChoiceOf(const std::vector<ReplicaView>& replicas, const Wish& wish, size_t chosen);

// Where requests were sent, by id. Holds at most `most` ids, the latest. One thread.
class SentRequests {
 public:
  explicit SentRequests(size_t most) : most_(most) {}

  std::string Find(const std::string& id) const;  // empty: not known
  void Set(const std::string& id, const std::string& replica);
  size_t size() const { return replica_of_.size(); }

 private:
  const size_t most_;
  std::map<std::string, std::string> replica_of_;
  std::deque<std::string> oldest_first_;
};

// Sessions live on one replica, and are named after it outside: "<replica>/<id>". So a router that
// was restarted finds them again.
struct SessionName {
  std::string replica, id;
  bool operator==(const SessionName&) const = default;
};
std::string JoinSession(std::string_view replica, std::string_view id);
std::optional<SessionName> SplitSession(std::string_view name);  // absent: it is no such name

}  // namespace palimpsest::inference
