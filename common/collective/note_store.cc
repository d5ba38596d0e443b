#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "common/base/clock.h"
#include "common/collective/note_store_torch.h"
#include "common/weights/durable_file.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr int64_t kMaxValue = 16 << 20;  // bytes
constexpr char kPrefix[] = "key-";

// A key may hold any bytes.
std::string NameOf(const std::string& key) { return kPrefix + absl::BytesToHexString(key); }

template <class T>
T OrThrow(absl::StatusOr<T> value) {
  TORCH_CHECK(value.ok(), value.status().ToString());
  return *std::move(value);
}

}  // namespace

std::string NoteStore::PathOf(const std::string& key) const { return folder_ + "/" + NameOf(key); }

void NoteStore::set(const std::string& key, const std::vector<uint8_t>& value) {
  const absl::Status status =
      weights::WriteFileDurably(PathOf(key), std::string(value.begin(), value.end()));
  TORCH_CHECK(status.ok(), status.ToString());
}

std::vector<uint8_t> NoteStore::get(const std::string& key) {
  wait({key}, timeout_);
  const std::string value = OrThrow(weights::ReadSmallFile(PathOf(key), kMaxValue));
  return {value.begin(), value.end()};
}

int64_t NoteStore::add(const std::string& key, int64_t) {
  TORCH_CHECK(false, "a store of notes counts nothing: ", key);
}

bool NoteStore::deleteKey(const std::string& key) { return std::remove(PathOf(key).c_str()) == 0; }

bool NoteStore::check(const std::vector<std::string>& keys) {
  const std::vector<std::string> names = OrThrow(weights::ListFolder(folder_));  // ascending
  return std::all_of(keys.begin(), keys.end(), [&](const std::string& key) {
    return std::binary_search(names.begin(), names.end(), NameOf(key));
  });
}

int64_t NoteStore::getNumKeys() {
  const std::vector<std::string> names = OrThrow(weights::ListFolder(folder_));
  return std::count_if(names.begin(), names.end(),
                       [](const std::string& name) { return absl::StartsWith(name, kPrefix); });
}

void NoteStore::wait(const std::vector<std::string>& keys,
                     const std::chrono::milliseconds& timeout) {
  Clock& clock = SystemClock();
  const absl::Time until = clock.Now() + absl::FromChrono(timeout);
  while (!check(keys)) {
    TORCH_CHECK(clock.Now() < until, "no ", keys.front(), " in time");
    clock.SleepFor(kPoll);
  }
}

}  // namespace palimpsest
