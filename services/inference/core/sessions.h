#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/context/policy.h"
#include "common/rl/rollout.h"

// A session: a conversation whose log, and while there is room whose KV, stays between its steps.
namespace palimpsest::inference {

struct SessionSpec {
  std::string request_id;  // creating again with this id gives the same session
  std::string client;
  context::ContextPolicy context;
  uint64_t seed = 0;                  // of all its draws
  std::optional<absl::Duration> ttl;  // > 0; absent: limits().session_ttl
  std::vector<int32_t> prompt;        // may be empty: then the first step brings it
  // The log of a session of this prompt, seed and context, as a step told it: this one stands where
  // that log ends, and its first step builds the KV from it (kv epoch + 1). Digests that its events
  // lack are filled in. Turns are those of TurnsOf (begun.h).
  std::optional<rl::Rollout> begun = {};
  bool operator==(const SessionSpec&) const = default;
};

struct SessionInfo {
  std::string id, client;
  int32_t tokens = 0;  // of its sequence so far
  int32_t turns = 0;   // steps so far; an ended step with no new token counts too
  int32_t events = 0;
  int32_t live_count = 0;  // slots; 0 while not resident
  absl::Duration idle;     // since its last step; 0 while busy
  absl::Duration ttl;      // idle time after which it is deleted
  bool resident = false;  // else its KV is built again from its log by the next step (kv epoch + 1)
  bool busy = false;      // a step waits or runs
};

// A generation request that is one step of a session: its prompt is what is new (may be empty after
// a `length`, or when a prompt stands), n is 1; context and seed are the session's.
struct SessionStep {
  std::string id;
  int32_t expected_tokens = 0;  // the caller's view of SessionInfo.tokens
  // Instead of tokens: one event over this window just before the session's last token is
  // processed. The session's trigger is `manual`, there are no new tokens.
  std::optional<context::Range> compact;
  // With compact: the event that it shall be, but for its quality and time. All but the kept
  // positions must be as the session's policy drafts it.
  std::optional<context::Event> forced;
  int32_t prompt_tokens = 0;  // of the session; the engine fills it in
};

// Any thread; each call waits for the step that runs. A step itself is Engine::Submit.
class Sessions {
 public:
  virtual ~Sessions() = default;

  // INVALID_ARGUMENT naming the field; RESOURCE_EXHAUSTED: limits().max_sessions are open;
  // ALREADY_EXISTS: the request id made a session of another content.
  virtual absl::StatusOr<SessionInfo> Create(SessionSpec spec) = 0;
  // One copy per seed, which goes on from where the session stands and shares its pages.
  // NOT_FOUND; ABORTED while a step runs; RESOURCE_EXHAUSTED as above.
  virtual absl::StatusOr<std::vector<SessionInfo>> Fork(const std::string& request_id,
                                                        const std::string& id,
                                                        const std::vector<uint64_t>& seeds) = 0;
  virtual std::vector<SessionInfo> List(const std::string& client) = 0;  // empty = all; by id
  // A running step is cancelled. Did it exist?
  virtual bool Delete(const std::string& id) = 0;
};

}  // namespace palimpsest::inference
