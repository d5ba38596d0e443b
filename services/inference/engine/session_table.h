#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "services/inference/core/sessions.h"
#include "services/inference/engine/sequence.h"

namespace palimpsest::inference {

// The open sessions. Between two steps a session's sequence rests here, with its cache while there
// is room; during a step the batch has it. Owned and used by the engine thread. Invariant: a
// session that is not busy holds its sequence.
class SessionTable {
 public:
  // `nonce`: nobody else's session ids are guessed from this server's.
  SessionTable(const ModelInfo& model, const Limits& limits, Clock& clock, uint64_t nonce)
      : model_(model), limits_(limits), clock_(clock), nonce_(nonce) {}

  // As in Sessions; the spec was checked (CheckSession).
  absl::StatusOr<SessionInfo> Create(SessionSpec spec);
  absl::StatusOr<std::vector<SessionInfo>> Fork(const std::string& request_id,
                                                const std::string& id,
                                                const std::vector<uint64_t>& seeds);
  std::vector<SessionInfo> List(const std::string& client) const;
  // The caller cancels its step.
  bool Delete(const std::string& id);

  // Checks the step against its session and completes it: prompt is then the whole sequence. The
  // session is busy until Rest or Release.
  absl::Status Begin(GenerationRequest& step, bool has_tokenizer);
  // The sequence of a step that begins now, with the new tokens at its end; without a cache when
  // its KV was taken or has never been. The session is there: who deletes one cancels its step.
  std::unique_ptr<Sequence> Take(std::shared_ptr<RequestState> step, PolicyVersion version);
  // The step has ended, well or not: what it made stays.
  void Rest(std::unique_ptr<Sequence> sequence);
  // The step ended before it began.
  void Release(const std::string& id);

  // Those that were idle for longer than their ttl.
  void DeleteIdle();
  // Lets go of the KV of the session that rests longest, but for `not_of`. False: none has any.
  bool LoseIdlest(const std::string& not_of = "");
  // Of all that rest: the weights have changed, or the pool goes.
  void LoseAll();

  // Null: no such session, it is busy, or it has none.
  const SequenceCache* CacheOf(const std::string& id) const;
  int64_t bytes_beside_pages() const;                                   // of those that rest
  void AddTables(std::vector<std::span<const int32_t>>& tables) const;  // of those that rest
  int32_t size() const { return static_cast<int32_t>(open_.size()); }

 private:
  struct Entry {
    SessionSpec spec;
    std::string forked_from;             // a session's id, or empty
    size_t fork = 0;                     // which of those that were made together
    std::unique_ptr<Sequence> resting;   // null while busy and in the batch
    const Sequence* sequence = nullptr;  // wherever it is
    bool busy = false;
    StopCause last_stop = StopCause::kNone;        // of the last step that sampled
    std::optional<rl::SamplingParams> last_drawn;  // how that one drew
    absl::Time used;                               // when its last step ended
  };

  absl::Status CheckRoom(size_t more) const;
  // Those that this request has made already, in their order.
  std::map<size_t, std::string> ForksOf(const std::string& request_id, const std::string& id) const;
  absl::StatusOr<Entry*> Find(const std::string& id);
  std::string NewId();
  absl::Duration TtlOf(const Entry& e) const { return e.spec.ttl.value_or(limits_.session_ttl); }
  SessionInfo Describe(const std::string& id, const Entry& entry) const;
  void Bury(const std::string& id, std::string cause);

  const ModelInfo& model_;
  const Limits& limits_;
  Clock& clock_;
  const uint64_t nonce_;
  uint64_t made_ = 0;
  std::map<std::string, Entry> open_;                     // by id
  std::deque<std::pair<std::string, std::string>> gone_;  // the latest ids and what became of them
};

}  // namespace palimpsest::inference
