#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/strong_int.h"
#include "common/weights/manifest.h"
#include "common/weights/retention.h"

// The weights store: numbered folders of Hugging Face files that appear whole or not at all, on a
// file system that several nodes see at different times. One writer at a time (the trainer; the
// coordinator sees to it), any number of readers.
namespace palimpsest::weights {

// Owned and used by one thread.
class StoreWriter {
 public:
  struct Options {
    std::string run;      // every version of a store belongs to one run
    int64_t attempt = 0;  // >= 0; rises with each restart of the run
    int keep_last = 2;    // versions kept whatever the readers say, >= 2
  };
  // Makes the store folder if need be and deletes what belongs to nobody. kFailedPrecondition when
  // the store holds another run or a manifest of another format.
  static absl::StatusOr<std::unique_ptr<StoreWriter>> Open(std::string store_folder,
                                                           Options options, Clock& clock);

  // `fill` writes plain files into an empty folder, which then becomes a version whose number is
  // higher than any in the store. When the newest version is of the same step, equal and intact,
  // its number is returned and nothing is written. On an error the store is as before, save for a
  // folder without a manifest, which no reader looks at.
  absl::StatusOr<PolicyVersion> Publish(
      int64_t source_step, const std::function<absl::Status(const std::string& folder)>& fill);

  // Deletes versions that VersionsToDelete names, and returns them. A lease that cannot be read
  // stops it: deleting too little is the safe side.
  absl::StatusOr<std::vector<PolicyVersion>> CollectGarbage();

 private:
  StoreWriter(std::string store, Options options, Clock& clock)
      : store_(std::move(store)), options_(std::move(options)), clock_(clock) {}

  // What a listing of the store shows.
  struct Census {
    std::vector<Manifest> complete;      // ascending
    std::vector<std::string> abandoned;  // names of folders that belong to nobody
    PolicyVersion highest;               // of all folders, manifest or not; 0 when none
  };
  absl::StatusOr<Census> Count() const;
  absl::Status DeleteAbandoned(const Census& census) const;
  absl::StatusOr<std::vector<ManifestFile>> SyncAndDigest(const std::string& folder) const;
  bool IsIntact(const Manifest& manifest) const;
  absl::StatusOr<PolicyVersion> Commit(const Census& census, const std::string& temporary,
                                       int64_t source_step, std::vector<ManifestFile> files) const;

  std::string store_;
  Options options_;
  Clock& clock_;
};

struct VersionInfo {
  std::string folder;
  Manifest manifest;
};

// Owned and used by one thread. Errors mean "keep serving what you serve": kUnavailable when the
// version is not visible yet or is gone already, kDataLoss when what is visible is not what was
// published. Both may pass; retry with a bound.
class StoreReader {
 public:
  struct Options {
    std::string reader;                       // unique among living readers
    absl::Duration lease = absl::Minutes(5);  // > 0; long against the nodes' clock differences
  };
  static absl::StatusOr<std::unique_ptr<StoreReader>> Open(std::string store_folder,
                                                           Options options, Clock& clock);

  // The newest version with a manifest, by fresh listings alone; nullopt when there is none.
  absl::StatusOr<std::optional<PolicyVersion>> Poll() const;

  // Reads the manifest and every byte of every file, and compares.
  absl::StatusOr<VersionInfo> Verify(PolicyVersion version) const;

  // Says "I serve this now" and starts a new lease. Versions below it may then be deleted.
  absl::Status Acknowledge(PolicyVersion version);
  // A new lease on what was last acknowledged; before that, on the whole store. Call it when the
  // reader starts and then well within each lease.
  absl::Status RenewLease();
  // The reader leaves: its lease no longer holds anything back.
  absl::Status Release();

 private:
  StoreReader(std::string store, Options options, Clock& clock)
      : store_(std::move(store)), options_(std::move(options)), clock_(clock) {}
  std::string LeasePath() const;

  std::string store_;
  Options options_;
  Clock& clock_;
  std::optional<PolicyVersion> acknowledged_;
};

// Compares a version's folder with a manifest's file list: kDataLoss for a wrong size or digest, a
// missing (kUnavailable) or unlisted file. Hidden files are none of ours.
absl::Status VerifyFiles(const std::string& folder, const std::vector<ManifestFile>& files);

// All leases in `<store>/acks`, live or not, by reader.
absl::StatusOr<std::vector<Lease>> ReadLeases(const std::string& store_folder);

}  // namespace palimpsest::weights
