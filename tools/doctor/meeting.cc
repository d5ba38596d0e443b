#include "tools/doctor/meeting.h"

#include <algorithm>
#include <functional>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"
#include "tools/doctor/greeter.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(10);
constexpr int kGreetings = 5;
constexpr char kHere[] = ".here", kSeen[] = ".seen";  // endings of a node's two files
constexpr int64_t kMaxFile = 256;                     // bytes

class Meeting {
 public:
  Meeting(const MeetingOptions& options, Greeter& greeter, Clock& clock)
      : options_(options), greeter_(greeter), clock_(clock) {}

  absl::StatusOr<std::vector<Acquaintance>> Attend() {
    RETURN_IF_ERROR(Write(kHere, greeter_.port()));
    RETURN_IF_ERROR(LearnAddresses());
    for (auto& [node, other] : others_) Measure(node, other);
    greeter_.Look();
    RETURN_IF_ERROR(Show());
    std::vector<Acquaintance> seen;
    for (const auto& [node, other] : others_) {
      if (other.seen.reached.ok()) Farewell({node, other.port}, clock_).IgnoreError();
      seen.push_back(other.seen);
    }
    const auto expected = static_cast<int>(others_.size());
    Await([&] { return greeter_.farewells() >= expected; });
    return seen;
  }

 private:
  struct Other {
    int port = 0;
    Acquaintance seen;
  };

  bool Await(const std::function<bool()>& done) {
    const absl::Time end = clock_.Now() + options_.patience;
    while (!done()) {
      if (clock_.Now() > end) return false;
      clock_.SleepFor(kLook);
    }
    return true;
  }

  // A number under our name.
  absl::Status Write(const char* ending, int64_t number) {
    return weights::WriteFileDurably(
        absl::StrFormat("%s/%s%s", options_.folder, options_.node, ending), std::to_string(number));
  }
  // That of another node, once a listing shows its file.
  std::map<std::string, int64_t> Read(const std::string& ending) {
    std::map<std::string, int64_t> found;
    const auto names = weights::ListFolder(options_.folder);
    if (!names.ok()) return found;
    for (const std::string& name : *names) {
      if (!name.ends_with(ending)) continue;
      const auto text = weights::ReadSmallFile(options_.folder + "/" + name, kMaxFile);
      int64_t number = 0;
      if (text.ok() && absl::SimpleAtoi(*text, &number)) {
        found[name.substr(0, name.size() - ending.size())] = number;
      }
    }
    return found;
  }

  absl::Status LearnAddresses() {
    std::map<std::string, int64_t> found;
    const bool all = Await([&] {
      found = Read(kHere);
      return static_cast<int32_t>(found.size()) >= options_.nodes;
    });
    if (!all) {
      return absl::DeadlineExceededError(
          absl::StrFormat("%s: %d of %d nodes were seen within %s", options_.folder, found.size(),
                          options_.nodes, absl::FormatDuration(options_.patience)));
    }
    for (const auto& [node, port] : found) {
      if (node != options_.node) {
        others_[node] = {.port = static_cast<int>(port), .seen = {.node = node}};
      }
    }
    return absl::OkStatus();
  }

  // The answer that came soonest knows the clock best.
  void Measure(const std::string& node, Other& other) {
    Acquaintance& seen = other.seen;
    seen.round_trip = absl::InfiniteDuration();
    for (int i = 0; i < kGreetings; ++i) {
      const absl::StatusOr<Greeting> greeting = Greet({node, other.port}, clock_);
      seen.reached = greeting.status();
      if (!greeting.ok()) return;
      if (greeting->round_trip >= seen.round_trip) continue;
      seen.round_trip = greeting->round_trip;
      seen.clock_ahead = greeting->clock_ahead;
    }
  }

  bool AllLook() {
    return std::all_of(others_.begin(), others_.end(), [&](const auto& one) {
      if (!one.second.seen.reached.ok()) return true;
      const absl::StatusOr<Greeting> greeting = Greet({one.first, one.second.port}, clock_);
      return greeting.ok() && greeting->looks;
    });
  }

  // Writes our file while the others look, and looks for theirs meanwhile.
  absl::Status Show() {
    bool written = false;
    absl::Status status;
    size_t missing = others_.size();
    Await([&] {
      if (!written && AllLook()) {
        written = true;
        status = Write(kSeen, absl::ToUnixNanos(clock_.Now()));
      }
      for (const auto& [node, nanos] : Read(kSeen)) {
        const auto other = others_.find(node);
        if (other == others_.end()) continue;
        Acquaintance& seen = other->second.seen;
        if (seen.visible_after != absl::InfiniteDuration()) continue;
        const absl::Time by_our_clock = absl::FromUnixNanos(nanos) - seen.clock_ahead;
        seen.visible_after = std::max(absl::ZeroDuration(), clock_.Now() - by_our_clock);
        --missing;
      }
      return !status.ok() || (written && missing == 0);
    });
    return status;
  }

  const MeetingOptions& options_;
  Greeter& greeter_;
  Clock& clock_;
  std::map<std::string, Other> others_;
};

}  // namespace

absl::StatusOr<std::vector<Acquaintance>> Meet(const MeetingOptions& options, Clock& clock) {
  ASSIGN_OR_RETURN(const auto greeter, Greeter::Start(clock));
  return Meeting(options, *greeter, clock).Attend();
}

}  // namespace palimpsest::tools
