#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/rl/rollout.h"
#include "services/orchestrator/core/peers.h"

// What others may see of a run, and the few things that they may ask of it.
namespace palimpsest::orchestrator {

enum class Phase : uint8_t {
  kStarting = 1,
  kSft = 2,
  kRl = 3,
  kEvaluation = 4,
  kReport = 5,
  kDone = 6,
  kFailed = 7
};
std::string_view Name(Phase phase);

struct HeldoutMean {
  int64_t step = 0;
  double reward = 0;  // at T = 1
  double greedy = 0;
  int32_t prompts = 0;
};

struct PeerFacts {
  std::string role;
  int32_t rank = 0;
  std::string address;
  bool ready = false;
  std::string last_error;
};

struct Progress {
  std::string run;
  int32_t attempt = 0;
  Phase phase = Phase::kStarting;
  std::string stage;
  int64_t step = 0;  // of the phase
  int64_t total_steps = 0;
  std::optional<double> reward;  // mean of the last trained batch
  std::vector<HeldoutMean> heldout;
  double tokens_per_second = 0;
  double events_per_rollout = 0;
  double mean_total_tokens = 0;
  int64_t staleness_max = 0;
  std::optional<double> mismatch_kl;
  std::optional<double> mismatch_max_abs;
  int64_t policy_version = -1;  // newest published
  std::map<rl::Outcome, int64_t> outcomes;
  double elapsed_seconds = 0;
  std::optional<double> left_seconds;
  std::map<std::string, double> step_phases;  // seconds of the last step
  int64_t sequence = 0;
  std::string failure;
};

// Which states a watcher is told: one in `interval`, the newest, and at once those that begin or
// end a stage, so that no stage is too short to be seen. One thread.
class ProgressSieve {
 public:
  explicit ProgressSieve(absl::Duration interval) : interval_(interval) {}

  // Is `now` to be told? `last`: nothing comes after it. Told states are remembered.
  bool Passes(const Progress& now, bool last, absl::Time time);
  // Until a state that was held back is due; infinite when there is none.
  absl::Duration Wait(absl::Time time) const;

 private:
  const absl::Duration interval_;
  std::optional<Progress> told_;
  bool held_ = false;  // the newest state was not told
  absl::Time due_ = absl::InfinitePast();
};

// A rollout as the ledger has it.
struct RolloutRow {
  std::string id;
  int64_t group = 0;
  int32_t sample = 0;
  Episode episode;
  rl::Outcome outcome = rl::Outcome::kOk;
  std::optional<double> reward;
  std::optional<double> advantage;
  std::string reason;
  std::map<std::string, double> parts;  // of the reward, by name. Of FindRollout alone
  std::string text;                     // of the response, cut at a stop string
  std::string bytes;                    // the rollout, see RolloutCodec; left out in lists
  std::vector<float> replayed;          // see rl::Replayed; empty: not kept. Of FindRollout alone
  std::optional<int64_t> step;          // that trains it
  std::string batch_id;
  int32_t prompt_tokens = 0;
  int32_t total_tokens = 0;
  int32_t turns = 1;  // responses
  int32_t events = 0;
  int64_t min_version = 0;
  int64_t max_version = 0;
  int64_t accepted_unix_ms = 0;
};

struct RolloutFilter {
  std::optional<int64_t> step;
  std::optional<int64_t> group;
  std::optional<rl::Outcome> outcome;
  int64_t before = 0;  // rows older than this place; 0 = from the newest
  int32_t limit = 50;
};
struct RolloutPage {
  std::vector<RolloutRow> rows;  // newest first
  int64_t next = 0;              // `before` of the next page; 0 = that was the last
};

// Any thread.
class RunView {
 public:
  virtual ~RunView() = default;
  virtual Progress Now() const = 0;
  // Returns when the sequence has passed `seen`, or after `timeout`.
  virtual Progress WaitForChange(int64_t seen, absl::Duration timeout) const = 0;
  virtual bool Ended() const = 0;
  virtual int32_t InFlight() const = 0;  // rollouts being made
  virtual void SetPaused(bool paused) = 0;
  virtual bool Paused() const = 0;
  // Stops admitting, lets what runs end for `grace`, then ends the run (to go on at a restart).
  virtual void Drain(absl::Duration grace) = 0;
  virtual absl::StatusOr<RolloutPage> ListRollouts(const RolloutFilter& filter) const = 0;
  virtual absl::StatusOr<RolloutRow> GetRollout(const std::string& id) const = 0;
  // The text of each token, for display; a byte of an unfinished character is U+FFFD.
  virtual absl::StatusOr<std::vector<std::string>> Pieces(
      const std::vector<int32_t>& tokens) const = 0;
};

}  // namespace palimpsest::orchestrator
