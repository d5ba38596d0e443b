#include "tests/simulation/disk.h"

#include <sqlite3.h>

#include <algorithm>
#include <new>
#include <utility>

namespace palimpsest::simulation {
namespace {

constexpr int64_t kSector = 512;  // is written whole or not at all
constexpr int kLongestName = 512;

}  // namespace

struct Disk::Image {
  std::map<std::string, Data> files;
};

// What SQLite holds of an open file; the first member is its table of methods.
struct DiskFile {
  sqlite3_file base;
  Disk* disk;
  std::shared_ptr<Disk::Data>* data;

  static DiskFile& Of(sqlite3_file* file) { return *reinterpret_cast<DiskFile*>(file); }
  static Disk::Data& DataOf(sqlite3_file* file) { return **Of(file).data; }

  static int Close(sqlite3_file* file) {
    delete Of(file).data;
    return SQLITE_OK;
  }
  static int Read(sqlite3_file* file, void* to, int n, sqlite3_int64 offset) {
    const std::string& now = DataOf(file).now;
    const auto wanted = static_cast<size_t>(n), begin = static_cast<size_t>(offset);
    char* bytes = static_cast<char*>(to);
    const size_t there = begin < now.size() ? now.copy(bytes, wanted, begin) : 0;
    if (there == wanted) return SQLITE_OK;
    std::fill(bytes + there, bytes + wanted, '\0');
    return SQLITE_IOERR_SHORT_READ;
  }
  static int Write(sqlite3_file* file, const void* from, int n, sqlite3_int64 offset) {
    return Of(file).disk->Change(
        DataOf(file), {offset, {static_cast<const char*>(from), static_cast<size_t>(n)}});
  }
  static int Truncate(sqlite3_file* file, sqlite3_int64 size) {
    return Of(file).disk->Change(DataOf(file), {.offset = size, .cut = true});
  }
  static int Sync(sqlite3_file* file, int) { return Of(file).disk->Sync(DataOf(file)); }
  static int Size(sqlite3_file* file, sqlite3_int64* size) {
    *size = std::ssize(DataOf(file).now);
    return SQLITE_OK;
  }
  // One connection at a time: locks are always free.
  static int Lock(sqlite3_file*, int) { return SQLITE_OK; }
  static int IsReserved(sqlite3_file*, int* reserved) {
    *reserved = 0;
    return SQLITE_OK;
  }
  static int Control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
  static int SectorSize(sqlite3_file*) { return kSector; }
  static int Characteristics(sqlite3_file*) { return 0; }
  static int MapShared(sqlite3_file* file, int page, int size, int extend, void volatile** at) {
    auto& shared = DataOf(file).shared;
    while (extend != 0 && std::ssize(shared) <= page) {
      shared.push_back(std::make_unique<std::string>(static_cast<size_t>(size), '\0'));
    }
    *at = page < std::ssize(shared) ? shared[static_cast<size_t>(page)]->data() : nullptr;
    return SQLITE_OK;
  }
  static int LockShared(sqlite3_file*, int, int, int) { return SQLITE_OK; }
  static void Barrier(sqlite3_file*) {}
  static int UnmapShared(sqlite3_file* file, int) {
    DataOf(file).shared.clear();
    return SQLITE_OK;
  }
};

struct Disk::FileSystem {
  sqlite3_vfs vfs = {};
  sqlite3_vfs* before = sqlite3_vfs_find(nullptr);

  static Disk& Of(sqlite3_vfs* vfs) { return *static_cast<Disk*>(vfs->pAppData); }

  static int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out) {
    static const sqlite3_io_methods methods = {.iVersion = 2,
                                               .xClose = DiskFile::Close,
                                               .xRead = DiskFile::Read,
                                               .xWrite = DiskFile::Write,
                                               .xTruncate = DiskFile::Truncate,
                                               .xSync = DiskFile::Sync,
                                               .xFileSize = DiskFile::Size,
                                               .xLock = DiskFile::Lock,
                                               .xUnlock = DiskFile::Lock,
                                               .xCheckReservedLock = DiskFile::IsReserved,
                                               .xFileControl = DiskFile::Control,
                                               .xSectorSize = DiskFile::SectorSize,
                                               .xDeviceCharacteristics = DiskFile::Characteristics,
                                               .xShmMap = DiskFile::MapShared,
                                               .xShmLock = DiskFile::LockShared,
                                               .xShmBarrier = DiskFile::Barrier,
                                               .xShmUnmap = DiskFile::UnmapShared,
                                               .xFetch = nullptr,
                                               .xUnfetch = nullptr};
    Disk& disk = Of(vfs);
    std::shared_ptr<Data> data;
    if (name != nullptr) {
      std::shared_ptr<Data>& named = disk.files_[name];
      if (named == nullptr) named = std::make_shared<Data>();
      data = named;
    } else {
      data = std::make_shared<Data>();  // a temporary file
    }
    new (file) DiskFile{{&methods}, &disk, new std::shared_ptr<Data>(std::move(data))};
    if (out != nullptr) *out = flags;
    return SQLITE_OK;
  }
  static int Delete(sqlite3_vfs* vfs, const char* name, int) {
    Disk& disk = Of(vfs);
    if (!disk.attached_) return SQLITE_IOERR_DELETE;
    return disk.files_.erase(name) > 0 ? SQLITE_OK : SQLITE_IOERR_DELETE_NOENT;
  }
  static int Access(sqlite3_vfs* vfs, const char* name, int, int* there) {
    *there = Of(vfs).files_.count(name) > 0 ? 1 : 0;
    return SQLITE_OK;
  }
  static int FullName(sqlite3_vfs*, const char* name, int size, char* out) {
    sqlite3_snprintf(size, out, "%s", name);
    return SQLITE_OK;
  }
  static int Random(sqlite3_vfs* vfs, int size, char* out) {
    for (int i = 0; i < size; ++i) out[i] = static_cast<char>(Of(vfs).random_.Next64());
    return size;
  }
  static int Sleep(sqlite3_vfs*, int microseconds) { return microseconds; }
  static int Time(sqlite3_vfs*, double* days) {
    *days = 2'460'000;  // Julian; the ledger's times come from the clock
    return SQLITE_OK;
  }
};

Disk::Disk(uint64_t seed, std::function<void()> kill)
    : random_(MixSeed({seed, Meaning("disk")})),
      kill_(std::move(kill)),
      system_(std::make_unique<FileSystem>()) {
  sqlite3_vfs& vfs = system_->vfs;
  vfs.iVersion = 1;
  vfs.szOsFile = sizeof(DiskFile);
  vfs.mxPathname = kLongestName;
  vfs.zName = "simulation";
  vfs.pAppData = this;
  vfs.xOpen = FileSystem::Open;
  vfs.xDelete = FileSystem::Delete;
  vfs.xAccess = FileSystem::Access;
  vfs.xFullPathname = FileSystem::FullName;
  vfs.xRandomness = FileSystem::Random;
  vfs.xSleep = FileSystem::Sleep;
  vfs.xCurrentTime = FileSystem::Time;
  sqlite3_vfs_register(&vfs, 1);
  sqlite3_randomness(0, nullptr);  // SQLite's own draws begin anew, with ours
}

Disk::~Disk() {
  sqlite3_vfs_unregister(&system_->vfs);
  sqlite3_vfs_register(system_->before, 1);
}

void Disk::Apply(const Write& write, std::string& to) {
  const auto offset = static_cast<size_t>(write.offset);
  if (write.cut) {
    to.resize(offset);
    return;
  }
  if (to.size() < offset + write.bytes.size()) to.resize(offset + write.bytes.size());
  to.replace(offset, write.bytes.size(), write.bytes);
}

bool Disk::Take(DiskFault fault) {
  const auto found = std::find(planned_.begin(), planned_.end(), fault);
  if (!faulty_ || found == planned_.end()) return false;
  planned_.erase(found);
  ++faults_;
  return true;
}

int Disk::Change(Data& data, Write write) {
  if (!attached_) return SQLITE_IOERR_WRITE;
  if (Take(DiskFault::kWriteFails)) return SQLITE_IOERR_WRITE;
  if (Take(DiskFault::kFull)) return SQLITE_FULL;
  const bool kill = Take(DiskFault::kKill);
  const bool torn = kill || Take(DiskFault::kWriteTears);
  if (torn && write.cut) return SQLITE_IOERR_TRUNCATE;
  if (torn) write.bytes.resize(write.bytes.size() / 2);
  Apply(write, data.now);
  data.unsynced.push_back(std::move(write));
  if (kill) kill_();
  return torn ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

int Disk::Sync(Data& data) {
  if (!attached_ || Take(DiskFault::kSyncFails)) return SQLITE_IOERR_FSYNC;
  if (lying_) return SQLITE_OK;
  for (const Write& write : data.unsynced) Apply(write, data.durable);
  data.unsynced.clear();
  return SQLITE_OK;
}

void Disk::CutPower() {
  const double kept = static_cast<double>(random_.Below(3)) / 2;
  for (auto& [name, data] : files_) {
    for (const Write& write : data->unsynced) {
      if (write.cut) {
        if (random_.Uniform() < kept) Apply(write, data->durable);
        continue;
      }
      for (int64_t begin = 0; begin < std::ssize(write.bytes); begin += kSector) {
        if (random_.Uniform() >= kept) continue;
        Apply({write.offset + begin, write.bytes.substr(static_cast<size_t>(begin), kSector)},
              data->durable);
      }
    }
    data->unsynced.clear();
    data->now = data->durable;
  }
}

std::shared_ptr<const Disk::Image> Disk::Copy() const {
  auto image = std::make_shared<Image>();
  for (const auto& [name, data] : files_) {
    image->files[name] = {.now = data->now, .durable = data->durable, .unsynced = data->unsynced};
  }
  return image;
}

void Disk::Restore(const Image& image) {
  files_.clear();
  for (const auto& [name, data] : image.files) {
    files_[name] = std::make_shared<Data>();
    files_[name]->now = data.now;
    files_[name]->durable = data.durable;
    files_[name]->unsynced = data.unsynced;
  }
}

}  // namespace palimpsest::simulation
