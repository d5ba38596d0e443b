#include "common/collective/meeting.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/random.h"
#include "common/weights/durable_file.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kPoll = absl::Milliseconds(50);
constexpr int64_t kMaxNote = 1 << 20;  // bytes
constexpr char kCurrent[] = "current";
constexpr char kLife[] = "life-";

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? weights::IoError(error.value(), "make", path) : absl::OkStatus();
}

// A file by a fresh listing of its folder, which network file systems want before they look again.
absl::StatusOr<std::string> ReadFresh(const std::string& folder, const std::string& name) {
  RETURN_IF_ERROR(weights::ListFolder(folder).status());
  return weights::ReadSmallFile(folder + "/" + name, kMaxNote);
}

std::string CameName(int rank) { return absl::StrFormat("came-%d", rank); }

class Meeting {
 public:
  Meeting(const MeetingPlace& place, Clock& clock)
      : place_(place),
        clock_(clock),
        until_(clock.Now() + place.patience),
        word_(absl::StrFormat(
            "%016x",
            MixSeed({static_cast<uint64_t>(absl::ToUnixNanos(clock.Now())),
                     static_cast<uint64_t>(getpid()), static_cast<uint64_t>(place.rank)}))) {}

  // Rank 0.
  absl::StatusOr<std::string> Call() {
    const std::string life = kLife + word_, folder = place_.folder + "/" + life;
    RETURN_IF_ERROR(MakeFolder(folder));
    RETURN_IF_ERROR(weights::WriteFileDurably(place_.folder + "/" + kCurrent,
                                              absl::StrFormat("%s %d", life, place_.size)));
    std::vector<std::string> words = {word_};
    while (static_cast<int>(words.size()) < place_.size) {
      absl::StatusOr<std::string> word =
          ReadFresh(folder, CameName(static_cast<int>(words.size())));
      if (word.ok()) {
        words.push_back(*std::move(word));
        continue;
      }
      RETURN_IF_ERROR(Pause(absl::StrFormat("rank %d", words.size())));
    }
    ForgetOtherLives(life);  // nobody comes to them any more
    RETURN_IF_ERROR(weights::WriteFileDurably(folder + "/all", absl::StrJoin(words, "\n")));
    return folder;
  }

  // The others.
  absl::StatusOr<std::string> Come() {
    std::string answered;  // the life that has our word
    for (;;) {
      const absl::StatusOr<std::string> current = ReadFresh(place_.folder, kCurrent);
      const std::pair<std::string, std::string> life =
          absl::StrSplit(current.ok() ? *current : std::string(), absl::MaxSplits(' ', 1));
      const std::string folder = place_.folder + "/" + life.first;
      if (life.second == std::to_string(place_.size)) {
        if (answered != life.first &&
            weights::WriteFileDurably(folder + "/" + CameName(place_.rank), word_).ok()) {
          answered = life.first;
        }
        if (IsOurs(folder)) return folder;
      }
      RETURN_IF_ERROR(Pause(answered.empty() ? "rank 0" : "rank 0, or one that it waits for,"));
    }
  }

 private:
  bool IsOurs(const std::string& folder) const {
    const absl::StatusOr<std::string> all = ReadFresh(folder, "all");
    if (!all.ok()) return false;
    const std::vector<std::string> words = absl::StrSplit(*all, '\n');
    return static_cast<int>(words.size()) == place_.size &&
           words[static_cast<size_t>(place_.rank)] == word_;
  }

  absl::Status Pause(const std::string& missing) {
    if (place_.give_up()) {
      return absl::CancelledError(absl::StrFormat("while waiting for %s", missing));
    }
    if (clock_.Now() >= until_) {
      return absl::DeadlineExceededError(absl::StrFormat("%s of %d has not come to %s within %s",
                                                         missing, place_.size, place_.folder,
                                                         absl::FormatDuration(place_.patience)));
    }
    clock_.SleepFor(kPoll);
    return absl::OkStatus();
  }

  // What is left of them would only fill the disk.
  void ForgetOtherLives(const std::string& life) const {
    const auto names = weights::ListFolder(place_.folder);
    if (!names.ok()) return;
    for (const std::string& name : *names) {
      std::error_code ignored;
      if (!absl::StartsWith(name, kLife) || name == life) continue;
      fs::remove_all(place_.folder + "/" + name, ignored);
    }
  }

  const MeetingPlace& place_;
  Clock& clock_;
  const absl::Time until_;
  const std::string word_;  // ours alone
};

}  // namespace

absl::StatusOr<std::string> Meet(const MeetingPlace& place, Clock& clock) {
  Meeting meeting(place, clock);
  return place.rank == 0 ? meeting.Call() : meeting.Come();
}

}  // namespace palimpsest
