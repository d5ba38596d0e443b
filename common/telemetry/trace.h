#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace palimpsest {

// Names one piece of work over all daemons that take part in it.
struct TraceId {
  uint64_t high = 0, low = 0;
  auto operator<=>(const TraceId&) const = default;
  std::string Hex() const;  // 32 lower-case digits
};

// One call: as its caller saw it, and, where the peer tells, as it was served there.
struct CallSpan {
  TraceId trace;
  std::optional<int64_t> part;
  std::string method;  // "/package.Service/Method"
  absl::Time begin;
  absl::Duration length;
  bool ok = false;
  struct Served {
    absl::Time begin;  // by the peer's clock
    absl::Duration length;
  };
  std::optional<Served> served;
};

// Any thread.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  virtual void Take(CallSpan span) = 0;
};

// What the calling thread works at. Calls that it makes carry the id to their peers, which write a
// log line for each, and go to the sink when they have ended. Scopes nest; one thread each.
class TraceScope {
 public:
  struct Work {
    TraceId id;
    TraceSink* sink = nullptr;  // outlives the calls; null: they are not traced
    // Which part of it, by a number of the work's own; only the sink hears of it.
    std::optional<int64_t> part = {};
  };
  explicit TraceScope(const Work& work);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

  static Work Now();  // of the calling thread

 private:
  const Work before_;
};

// The header of W3C Trace Context, version 00, with the flag "sampled".
inline constexpr char kTraceparent[] = "traceparent";
std::string Traceparent(TraceId id, uint64_t parent_span);
// nullopt for what is no such header, and for what is not sampled.
std::optional<TraceId> ParseTraceparent(std::string_view text);

}  // namespace palimpsest
