#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/samples.h"
#include "services/orchestrator/engine/training.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

inline constexpr char kRlStage[] = "rl";

// Reinforcement learning, from groups of rollouts to published weights:
//
//   admit ──▶ worker: Reset, Generate, Score ──▶ accept (ledger) ──▶ commit a batch (ledger)
//     ▲                                                │ too old, abandoned      │
//     └───────────── refill, one for one ◀─────────────┘                         ▼
//     ▲                                                                        train
//     └──────────────────── weights are served ◀── publish ◀─────────────────────┘
//
// What happens next is decided by NextRlAction alone. With max_staleness 0 nothing is admitted
// before the last batch is trained and served; with more, workers go on while the trainer trains.
// Owner: the loop's thread; workers only touch the inbox.
class RlStage {
 public:
  RlStage(Workplace& place, Training& training) : place_(place), training_(training) {}
  ~RlStage();

  absl::Status Run();

 private:
  struct Answer {
    int64_t group = 0;
    absl::StatusOr<Made> made;
  };
  struct Inbox {
    absl::Mutex mu;
    std::deque<Answer> answers ABSL_GUARDED_BY(mu);
    int working ABSL_GUARDED_BY(mu) = 0;
    absl::Time busy_since ABSL_GUARDED_BY(mu);  // meant only while somebody works
    absl::Duration busy ABSL_GUARDED_BY(mu) = absl::ZeroDuration();
  };

  absl::Status Loop();
  absl::Status KeepWhatThereIs();
  absl::Status Load();
  absl::StatusOr<RlSnapshot> Look();
  absl::Status Act(RlAction action);
  absl::StatusOr<std::string> NextTask() const;
  int64_t MeantFor(int64_t group) const;
  absl::Status Admit();
  absl::Status Wait();
  absl::Status TakeAnswers();
  absl::Status TakeAnswer(Answer& answer);
  absl::Status KeepCut(int64_t group, const CutSamples& cut);
  absl::StatusOr<CutSamples> CutOf(int64_t group) const;
  absl::Status TakeWhole(int64_t group);
  absl::Status Commit();
  absl::Status LearnVersions(const std::vector<int64_t>& groups);
  absl::StatusOr<std::optional<int64_t>> MadeAt(const RolloutRow& row) const;
  absl::StatusOr<bool> DropUnusable(const std::vector<int64_t>& groups);
  // Of a group that is whole: rollouts by sample, with rewards as they are learnt from.
  struct Rewarded {
    std::vector<std::string> ids;
    std::vector<double> rewards;
    std::vector<int64_t> lengths;  // sampled tokens, > 0: what was injected is nobody's length
  };
  absl::StatusOr<Rewarded> RewardsOf(int64_t group) const;
  absl::StatusOr<bool> Redraw(const std::vector<int64_t>& groups);
  absl::Status Evaluate();
  double TakeBusySeconds();
  void TellQueues(const RlSnapshot& now);

  Workplace& place_;
  Training& training_;
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  int64_t first_step_ = 0;
  int64_t committed_ = 0;
  int64_t evaluated_ = -1;                // served batches at the last measurement
  int dropped_in_a_row_ = 0;              // groups that could not be made
  int left_out_in_a_row_ = 0;             // groups that had nothing to learn from
  std::set<int64_t> ready_;               // groups that are whole
  std::map<int64_t, GroupRow> reopened_;  // groups that lack rollouts and that nobody works at
  std::set<int64_t> working_;             // groups that a worker has
};

}  // namespace palimpsest::orchestrator
