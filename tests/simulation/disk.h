#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/random.h"

namespace palimpsest::simulation {

enum class DiskFault : uint8_t {
  kWriteFails,  // an error, nothing is written
  kWriteTears,  // an error, and half is written
  kFull,        // no space left
  kSyncFails,
  kKill,  // the process dies in the middle of a write
};

// A disk under SQLite: while it lives, the process's default file system of SQLite, in memory. What
// was written is seen at once, and is sure to survive a power cut once it was synced. One thread at
// a time.
class Disk {
 public:
  // `kill` is called by kKill, after half of the write.
  Disk(uint64_t seed, std::function<void()> kill);
  ~Disk();
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  // Happens to the next write, or the next sync.
  void Plan(DiskFault fault) { planned_.push_back(fault); }
  void set_faulty(bool faulty) { faulty_ = faulty; }  // false: what is planned waits
  int64_t faults() const { return faults_; }          // that have happened

  // The process that uses it is dead: what it still does has no effect. Until Attach.
  void Detach() { attached_ = false; }
  void Attach() { attached_ = true; }
  // What is not synced is lost: all of it, none, or any of its sectors.
  void CutPower();
  // Says that it has synced, and has not.
  void set_lying(bool lying) { lying_ = lying; }

  // All files as they are; a look at them by SQLite itself changes them. Nobody has one open.
  struct Image;
  std::shared_ptr<const Image> Copy() const;
  void Restore(const Image& image);

 private:
  friend struct DiskFile;
  struct Write {
    int64_t offset = 0;
    std::string bytes;
    bool cut = false;  // the file ends at `offset`
  };
  struct Data {
    std::string now;
    std::string durable;
    std::vector<Write> unsynced;
    std::vector<std::unique_ptr<std::string>> shared;  // memory of the write-ahead log's index
  };
  static void Apply(const Write& write, std::string& to);
  int Change(Data& data, Write write);
  int Sync(Data& data);
  bool Take(DiskFault fault);

  struct FileSystem;
  RandomStream random_;
  std::function<void()> kill_;
  std::map<std::string, std::shared_ptr<Data>> files_;
  std::vector<DiskFault> planned_;
  int64_t faults_ = 0;
  bool attached_ = true;
  bool faulty_ = true;
  bool lying_ = false;
  std::unique_ptr<FileSystem> system_;
};

}  // namespace palimpsest::simulation
