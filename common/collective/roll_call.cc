#include "common/collective/roll_call.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/weights/durable_file.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr int64_t kMaxNote = 1 << 20;  // bytes
constexpr char kFailed[] = "failed";   // for a reason of its own
constexpr char kLost[] = "lost";       // noticed that others are missing
constexpr char kHere[] = "here";       // answers

std::string NameOf(std::string_view kind, int rank) { return absl::StrFormat("%s-%d", kind, rank); }

// "rank 2", "ranks 2, 3".
std::string Ranks(const std::vector<int>& ranks) {
  return absl::StrFormat("%s %s", ranks.size() == 1 ? "rank" : "ranks", absl::StrJoin(ranks, ", "));
}

}  // namespace

// What a rank has said, in lines: how many operations it has entered, which one last, a text.
struct RollCall::Note {
  std::string kind;  // empty: nothing
  int64_t entered = 0;
  std::string operation, text;
};

RollCall::RollCall(std::string folder, int rank, int size, absl::Duration patience, Clock& clock)
    : folder_(std::move(folder)),
      rank_(rank),
      size_(size),
      patience_(patience),
      clock_(clock),
      thread_([this] { Answer(); }) {}

RollCall::~RollCall() {
  {
    const absl::MutexLock lock(&mu_);
    ending_ = true;
  }
  thread_.join();
}

void RollCall::Enter(std::string_view operation) {
  const absl::MutexLock lock(&mu_);
  ++entered_;
  operation_ = operation;
}

void RollCall::Leave(std::string_view kind, std::string_view text) {
  std::string note;
  {
    const absl::MutexLock lock(&mu_);
    note = absl::StrFormat("%d\n%s\n%s", entered_, operation_, text);
  }
  // Where the note cannot be left, this rank will look as if it were dead: the others end as well.
  weights::WriteFileDurably(folder_ + "/" + NameOf(kind, rank_), note).IgnoreError();
}

RollCall::Note RollCall::Read(int rank) const {
  for (const char* kind : {kFailed, kLost, kHere}) {
    const auto text = weights::ReadSmallFile(folder_ + "/" + NameOf(kind, rank), kMaxNote);
    if (!text.ok()) continue;
    const std::vector<std::string> lines = absl::StrSplit(*text, absl::MaxSplits('\n', 2));
    Note note{.kind = kind};
    if (lines.size() < 3 || !absl::SimpleAtoi(lines[0], &note.entered)) continue;
    note.operation = lines[1];
    note.text = lines[2];
    return note;
  }
  return {};
}

void RollCall::Answer() {
  for (;;) {
    const auto names = weights::ListFolder(folder_);  // afresh: see durable_file.h
    const bool call = names.ok() && std::any_of(names->begin(), names->end(), [](const auto& n) {
                        return absl::StartsWith(n, kFailed) || absl::StartsWith(n, kLost);
                      });
    if (call) {
      called_ = true;
      Leave(kHere, "");
      return;
    }
    const absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&ending_), kPoll)) return;
  }
}

absl::Status RollCall::health() const {
  const absl::MutexLock lock(&mu_);
  return health_;
}

void RollCall::Fail(const absl::Status& why) {
  {
    const absl::MutexLock lock(&mu_);
    if (!health_.ok()) return;
    health_ = why;
  }
  Leave(kFailed, why.ToString());
}

absl::Status RollCall::Together(std::string_view operation,
                                const std::function<absl::Status()>& work) {
  RETURN_IF_ERROR(health());
  Enter(operation);
  const absl::Status done =
      called() ? absl::AbortedError("another rank has called the roll") : work();
  if (done.ok()) return done;
  const absl::Status blamed = Blame(std::string(done.message()));
  const absl::MutexLock lock(&mu_);
  health_.Update(blamed);  // the first one stays
  return health_;
}

std::string RollCall::Verdict(bool wait_is_over) const {
  int64_t entered = 0;
  {
    const absl::MutexLock lock(&mu_);
    entered = entered_;
  }
  std::vector<int> silent;
  std::string late;
  weights::ListFolder(folder_).status().IgnoreError();  // makes a network file system look again
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == rank_) continue;
    const Note note = Read(rank);
    if (note.kind == kFailed) return absl::StrFormat("rank %d failed: %s", rank, note.text);
    if (note.kind.empty()) {
      silent.push_back(rank);
    } else if (note.entered < entered && late.empty()) {
      late = absl::StrFormat("rank %d is alive but has not come: its last was call %d, %s", rank,
                             note.entered, note.operation);
    }
  }
  if (!wait_is_over && !silent.empty()) return "";
  if (!silent.empty()) {
    return Ranks(silent) + absl::StrFormat(" of %d %s not answer: killed, stopped or cut off",
                                           size_, silent.size() == 1 ? "does" : "do");
  }
  return late.empty() ? "all ranks are alive and here: the connection broke" : late;
}

absl::Status RollCall::Blame(std::string_view how) {
  Leave(kLost, how);
  const absl::Time until = clock_.Now() + patience_;
  std::string verdict;
  while ((verdict = Verdict(clock_.Now() >= until)).empty()) clock_.SleepFor(kPoll);
  const absl::MutexLock lock(&mu_);
  return absl::AbortedError(absl::StrFormat("%s (call %d of rank %d): %s [%s]", operation_,
                                            entered_, rank_, verdict, how));
}

}  // namespace palimpsest
