#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/rpc/config.h"
#include "common/rpc/tls.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "services/inference/core/routing.h"
#include "services/inference/router/telemetry.h"

namespace palimpsest::inference {

// The connection to one replica; another address is another connection.
struct Replica {
  std::string name, address;
  std::unique_ptr<v1::InferenceService::Stub> stub;
};
using ReplicaPtr = std::shared_ptr<const Replica>;

// The replicas behind a router: who they are, how they are (by a poll of GetServerInfo, and by what
// calls say) and which of them is asked next. The first one that serves says which model the fleet
// has; one of another model is left out for good. Any thread; an own one polls.
class Fleet {
 public:
  struct Options {
    // Name -> host:port of each, asked for before every poll.
    std::function<std::map<std::string, std::string>()> addresses;
    std::string run;          // that a replica which names one must name; empty: any
    absl::Duration poll;      // between two looks at each
    absl::Duration patience;  // for the answer to a look
    double load_factor = 1;   // see OrderReplicas
    ChannelConfig channel;
    Tls tls;
    std::function<void(bool open)> looked;  // at all: can any be asked? By the polling thread
  };
  Fleet(Options options, RouterTelemetry& telemetry);
  ~Fleet();

  // The best replica but for those of these names; null: none is left. The request's samples count
  // as load until Ended. wish.known_to is filled in here: `id` is remembered to be there now, for
  // the next call with it. Empty: any replica may do such a request again.
  ReplicaPtr Next(Wish wish, const std::string& id, const std::vector<std::string>& but);
  void Ended(const ReplicaPtr& replica, int32_t samples);
  // It did not answer a call: last in the order until it has answered a poll, which is due now.
  void Doubt(const ReplicaPtr& replica);

  struct Known {
    ReplicaPtr replica;
    Standing standing;
    std::string why;  // it is not ready
  };
  std::vector<Known> All() const;                            // by name
  std::optional<Known> Find(const std::string& name) const;  // absent: there is none of this name
  bool Open() const;                                         // is there one that can be asked?
  absl::Status WhyNone() const;                              // UNAVAILABLE, naming each and why
  // State, model, limits, load and version of all together; without `server`.
  v1::InferenceServiceGetServerInfoResponse Describe() const;

 private:
  struct Poll;
  struct Entry {
    ReplicaPtr replica;
    Standing standing = Standing::kAway;
    std::string why = "has not answered yet";
    v1::InferenceServiceGetServerInfoResponse info;  // of the last good poll
    int32_t sent = 0;                                // samples, by this router
    int32_t sent_at_poll = 0;
    bool polling = false;

    int32_t load() const;
  };

  void Run();
  void Look();
  void Follow(const std::map<std::string, std::string>& addresses)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Heard(const std::shared_ptr<Poll>& poll, const absl::Status& status);
  // Nothing: it is fit. Else why it cannot be asked.
  std::string Unfit(const v1::InferenceServiceGetServerInfoResponse& info)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Stand(Entry& entry, Standing standing, std::string why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TellReplicas() ABSL_SHARED_LOCKS_REQUIRED(mu_);
  int Count(bool (*good)(Standing)) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  Entry* EntryOf(const ReplicaPtr& replica) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  RouterTelemetry& telemetry_;

  mutable absl::Mutex mu_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);   // by name
  std::set<std::shared_ptr<Poll>> polls_ ABSL_GUARDED_BY(mu_);  // in flight
  std::optional<std::string> model_ ABSL_GUARDED_BY(mu_);       // ModelShape and tokenizer
  SentRequests sent_ ABSL_GUARDED_BY(mu_);
  bool look_now_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace palimpsest::inference
