#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "common/base/clock.h"
#include "common/rpc/retry.h"
#include "common/weights/store.h"
#include "services/inference/server/serving.h"
#include "services/inference/server/telemetry.h"

namespace palimpsest::inference {

// A version as another daemon announces it: what is present must be what the manifest says.
struct Announcement {
  struct Source {
    std::string run;
    int64_t attempt = 0;
    int64_t source_step = 0;
    std::optional<PolicyVersion> parent;
  };
  PolicyVersion version;
  std::optional<Source> source;
  std::string manifest_digest;  // XXH3-128 of the manifest file, 32 digits; empty = not checked
};

// Keeps the replica on the newest weights of the store: polls, obeys announcements, verifies,
// loads, acknowledges. One thread owns the store's reader and is the only one to change weights; it
// makes the engine from the first version. On any error the old weights stay.
class WeightsFollower {
 public:
  using MakeEngineFn = std::function<absl::StatusOr<std::unique_ptr<Engine>>(
      const std::string& folder, PolicyVersion version)>;
  struct Options {
    std::string store;
    std::string reader;  // unique among living readers
    absl::Duration poll, lease, first_version_wait;
    WeightsMode mode = WeightsMode::kKeep;  // of versions found by polling
    RetryPolicy retry;                      // backoff of a version that fails; never gives up
    MakeEngineFn make_engine;
    double canary_limit = 1;  // nats; weights whose canary prompts are further off are doubted
    // A version is served. A doubt says why it is perhaps not what was trained.
    std::function<void(const absl::Status& doubt)> live;
    std::function<void(const absl::Status&)> gave_up;  // no first version within the wait
  };
  // `serving`, `telemetry` and `clock` outlive it.
  static absl::StatusOr<std::unique_ptr<WeightsFollower>> Start(Options options, Serving& serving,
                                                                Telemetry& telemetry, Clock& clock);
  ~WeightsFollower();  // ends the thread and releases the lease

  // Any thread; blocks until the version is live or `deadline`. NOT_FOUND: not in the store.
  // DATA_LOSS: digests differ. FAILED_PRECONDITION: older than the live ones, or announced as
  // something else than its manifest says.
  absl::StatusOr<UpdateResult> Apply(const Announcement& announcement, WeightsMode mode,
                                     absl::Time deadline);

 private:
  struct Job {
    Announcement announcement;
    WeightsMode mode;
    std::optional<absl::StatusOr<UpdateResult>> result;
  };
  static constexpr size_t kMaxJobs = 16;

  WeightsFollower(Options options, std::unique_ptr<weights::StoreReader> reader, Serving& serving,
                  Telemetry& telemetry, Clock& clock);
  void Run();
  std::shared_ptr<Job> NextJob(absl::Duration wait);  // null: none came, or stopping
  bool Stopping() const;

  // On the follower's thread.
  bool Poll();  // false: gave up
  bool WaitedTooLong();
  absl::Status WhyNone() const;  // the code of the last failure, when there was one
  absl::Status RenewLeaseIfDue();
  void FollowNewest();
  absl::StatusOr<UpdateResult> Take(const Announcement& announcement, WeightsMode mode);
  absl::StatusOr<UpdateResult> Load(const weights::VersionInfo& info, WeightsMode mode);
  absl::StatusOr<UpdateResult> LoadFirst(const weights::VersionInfo& info);
  absl::Status Doubt(const weights::VersionInfo& info);

  const Options options_;
  const std::unique_ptr<weights::StoreReader> reader_;
  Serving& serving_;
  Telemetry& telemetry_;
  Clock& clock_;

  // Of the follower's thread.
  const absl::Time started_;
  absl::Time last_log_ = absl::InfinitePast();
  absl::Time lease_renewed_ = absl::InfinitePast();
  PolicyVersion failing_;  // the newest version, when it could not be taken over
  absl::Status failure_;   // the last one of it
  int failures_ = 0;       // of it
  absl::Time next_try_ = absl::InfinitePast();

  mutable absl::Mutex mu_;
  std::deque<std::shared_ptr<Job>> jobs_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace palimpsest::inference
