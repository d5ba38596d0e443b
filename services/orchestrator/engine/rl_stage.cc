#include "services/orchestrator/engine/rl_stage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/rl/advantages.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/engine/evaluation.h"

namespace palimpsest::orchestrator {
namespace {

// Prompts that no try could serve, one after the other, until the run is said to have failed.
constexpr int kMaxDroppedInARow = 8;
constexpr absl::Duration kLook = absl::Milliseconds(200);

}  // namespace

RlStage::~RlStage() {
  const auto idle = [this]()
                        ABSL_SHARED_LOCKS_REQUIRED(inbox_->mu) { return inbox_->working == 0; };
  absl::MutexLock lock(&inbox_->mu);
  place_.threads.Await(inbox_->mu, absl::Condition(&idle));
}

absl::Status RlStage::Run() {
  const absl::Status ended = Loop();
  return ended.ok() || !place_.patience.stopping() ? ended : KeepWhatThereIs();
}

// Answer by answer: a worker may wait for a silent replica for longer than we have.
absl::Status RlStage::KeepWhatThereIs() {
  for (;;) {
    bool idle = false;
    {
      absl::MutexLock lock(&inbox_->mu);
      idle = inbox_->working == 0;
    }
    RETURN_IF_ERROR(TakeAnswers());
    if (idle) return Patience::Stopped();
    RETURN_IF_ERROR(Wait());
  }
}

absl::Status RlStage::Loop() {
  RETURN_IF_ERROR(Load());
  for (;;) {
    if (place_.patience.stopping()) return Patience::Stopped();
    RETURN_IF_ERROR(TakeAnswers());
    ASSIGN_OR_RETURN(const RlSnapshot now, Look());
    TellQueues(now);
    const RlAction action = NextRlAction(now, place_.plan.rl);
    if (action == RlAction::kDone) break;
    RETURN_IF_ERROR(Act(action));
  }
  return place_.ledger.EndStage(kRlStage, training_.step());
}

absl::Status RlStage::Load() {
  ASSIGN_OR_RETURN(first_step_, place_.ledger.BeginStage(kRlStage, training_.step()));
  ASSIGN_OR_RETURN(const int64_t last, place_.ledger.LastStep());
  committed_ = last - first_step_;
  ASSIGN_OR_RETURN(const std::vector<GroupRow> ready, place_.ledger.Groups(GroupState::kReady));
  for (const GroupRow& group : ready) ready_.insert(group.id);
  ASSIGN_OR_RETURN(const std::vector<GroupRow> open, place_.ledger.Groups(GroupState::kOpen));
  for (const GroupRow& group : open) reopened_[group.id] = group;
  place_.board.Update([&](Progress& p) {
    p.phase = Phase::kRl;
    p.stage = kRlStage;
    p.step = training_.step() - first_step_;
    p.total_steps = place_.plan.rl.steps;
  });
  return training_.Serve();
}

absl::StatusOr<RlSnapshot> RlStage::Look() {
  int64_t first_unfinished = INT64_MAX;
  if (!reopened_.empty()) first_unfinished = reopened_.begin()->first;
  if (!working_.empty()) first_unfinished = std::min(first_unfinished, *working_.begin());
  RlSnapshot now;
  now.committed = committed_;
  now.trained = training_.step() - first_step_;
  now.served = training_.served_step() - first_step_;
  now.ready = std::distance(ready_.begin(), ready_.lower_bound(first_unfinished));
  now.reopened = static_cast<int64_t>(reopened_.size());
  now.in_flight = static_cast<int64_t>(working_.size());
  now.pending = static_cast<int64_t>(ready_.size()) + now.reopened + now.in_flight;
  now.paused = place_.paused;
  now.evaluated = evaluated_ == now.served;
  return now;
}

void RlStage::TellQueues(const RlSnapshot& now) {
  place_.metrics.groups.With({"ready"}).Set(static_cast<double>(ready_.size()));
  place_.metrics.groups.With({"in_flight"}).Set(static_cast<double>(now.in_flight));
}

absl::Status RlStage::Act(RlAction action) {
  switch (action) {
    case RlAction::kPublish:
      return training_.Serve();
    case RlAction::kEvaluate:
      return Evaluate();
    case RlAction::kCommit:
      return Commit();
    case RlAction::kAdmit:
      return Admit();
    case RlAction::kTrain:
      return training_.TrainThrough(first_step_ + committed_);
    case RlAction::kWait:
      return Wait();
    case RlAction::kDone:
      break;
  }
  return absl::OkStatus();
}

// Of the next group. By pass rate it is drawn; the ledger keeps what came of it.
absl::StatusOr<std::string> RlStage::NextTask() const {
  const std::vector<std::string>& tasks = place_.plan.tasks;
  const RlConfig& rl = place_.plan.rl;
  ASSIGN_OR_RETURN(const int64_t group, place_.ledger.NextGroup());
  if (!rl.task_weights.by_pass_rate) return tasks[static_cast<size_t>(group) % tasks.size()];
  ASSIGN_OR_RETURN(const auto solved, place_.ledger.Solved(rl.task_weights.window, rl.solved));
  std::vector<TaskRecord> records;
  for (const std::string& task : tasks) {
    records.push_back(solved.contains(task) ? solved.at(task) : TaskRecord{});
  }
  const std::vector<double> shares = TaskShares(rl.task_weights, records);
  for (size_t i = 0; i < tasks.size(); ++i) {
    place_.metrics.task_share.With({tasks[i]}).Set(shares[i]);
  }
  return tasks[PickTask(shares,
                        Uniform01(place_.run.seed, Meaning("task"), static_cast<uint64_t>(group)))];
}

// The trainer's step whose batch a group is meant for: before it stand those with lower numbers.
int64_t RlStage::MeantFor(int64_t group) const {
  const auto before = [&](const auto& groups) {
    return std::distance(groups.begin(), groups.lower_bound(group));
  };
  const int64_t ahead = before(ready_) + before(reopened_) + before(working_);
  return first_step_ + committed_ + 1 + ahead / place_.plan.rl.prompts_per_batch;
}

absl::Status RlStage::Admit() {
  GroupRow group;
  CutSamples cut;
  if (!reopened_.empty()) {
    group = reopened_.begin()->second;
    reopened_.erase(reopened_.begin());
    ASSIGN_OR_RETURN(cut, CutOf(group.id));
  } else {
    ASSIGN_OR_RETURN(const std::string task, NextTask());
    ASSIGN_OR_RETURN(group, place_.ledger.OpenGroup(task));
  }
  RETURN_IF_ERROR(place_.ledger.CountTry(group.id));
  ASSIGN_OR_RETURN(const context::ContextPolicy policy,
                   FindContext(place_.plan, place_.plan.rl.context));
  SampleOrder order{.id = absl::StrFormat("g%06d.a%d", group.id, group.tries),
                    .group = group.id,
                    .episode = PromptOf(group.task, Split::kTrain, place_.run.seed, group.index),
                    .samples = place_.plan.rl.samples,
                    .have = group.samples,
                    .seed = GroupSeed(place_.run.seed, group.id),
                    .temperature = place_.plan.rl.temperature,
                    .max_tokens = place_.plan.rl.max_tokens,
                    .context = policy,
                    .min_version = training_.version(),
                    .max_tries = place_.plan.rl.max_tries,
                    .cut = std::move(cut)};
  working_.insert(group.id);
  {
    absl::MutexLock lock(&inbox_->mu);
    if (inbox_->working++ == 0) inbox_->busy_since = place_.clock.Now();
  }
  const TraceScope::Work work =
      place_.trace ? place_.trace->OfGroup(group.id, MeantFor(group.id)) : TraceScope::Work{};
  place_.workers.Submit([&place = place_, inbox = inbox_, work, order = std::move(order)] {
    const TraceScope traced(work);
    absl::StatusOr<Made> made = MakeSamples(place, order);
    absl::MutexLock lock(&inbox->mu);
    inbox->answers.push_back({order.group, std::move(made)});
    if (--inbox->working == 0) inbox->busy += place.clock.Now() - inbox->busy_since;
  });
  return absl::OkStatus();
}

absl::Status RlStage::Wait() {
  const auto answered = [this]() ABSL_SHARED_LOCKS_REQUIRED(inbox_->mu) {
    return !inbox_->answers.empty();
  };
  absl::MutexLock lock(&inbox_->mu);
  place_.threads.Await(inbox_->mu, absl::Condition(&answered), kLook);
  return absl::OkStatus();
}

absl::Status RlStage::TakeAnswers() {
  std::deque<Answer> answers;
  {
    absl::MutexLock lock(&inbox_->mu);
    answers.swap(inbox_->answers);
  }
  for (Answer& answer : answers) {
    const bool nothing = !answer.made.ok() && place_.patience.stopping();
    if (!nothing) RETURN_IF_ERROR(TakeAnswer(answer));
  }
  return absl::OkStatus();
}

absl::Status RlStage::TakeAnswer(Answer& answer) {
  working_.erase(answer.group);
  RETURN_IF_ERROR(answer.made.status());
  const Made& made = *answer.made;
  const bool whole = made.failure.empty() && !made.stopped;
  RETURN_IF_ERROR(place_.ledger.Accept(answer.group, made.rollouts, whole, place_.clock.Now()));
  if (made.continued > 0) RETURN_IF_ERROR(place_.ledger.Count("continued", made.continued));
  ASSIGN_OR_RETURN(const auto counts, place_.ledger.Counts());
  place_.board.Update([&](Progress& p) {
    const auto count = [&](const char* name) {
      return counts.count(name) > 0 ? counts.at(name) : 0;
    };
    p.outcomes = {{rl::Outcome::kOk, count("ok")},
                  {rl::Outcome::kTruncated, count("truncated")},
                  {rl::Outcome::kTaskFailed, count("task_failed")},
                  {rl::Outcome::kInfraFailed, count("infra_failed")},
                  {rl::Outcome::kCancelled, count("cancelled")}};
  });
  if (made.stopped) return KeepCut(answer.group, made.cut);
  if (whole) {
    dropped_in_a_row_ = 0;
    return TakeWhole(answer.group);
  }
  Log(Severity::kWarning, "a group is given up", {{"group", answer.group}, {"why", made.failure}});
  RETURN_IF_ERROR(place_.ledger.DropGroup(answer.group, made.failure));
  if (++dropped_in_a_row_ < kMaxDroppedInARow) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat("%d groups in a row could not be made; the last: %s",
                                             dropped_in_a_row_, made.failure));
}

absl::Status RlStage::KeepCut(int64_t group, const CutSamples& cut) {
  std::vector<CutRow> rows;
  int64_t ended = 0;
  for (const auto& [sample, what] : cut) {
    rows.push_back(
        {sample, what.text, place_.peers.codec.Encode(what.rollout), what.episode, what.responses});
    ended += what.ended();
  }
  Log(Severity::kInfo, "a group is left with what there is of it",
      {{"group", group}, {"cut", std::ssize(rows) - ended}, {"not_judged", ended}});
  return place_.ledger.KeepCut(group, rows);
}

// Those of weights that are abandoned, or that would be too old for the batch, are of no use.
absl::StatusOr<CutSamples> RlStage::CutOf(int64_t group) const {
  ASSIGN_OR_RETURN(const std::vector<CutRow> rows, place_.ledger.Cut(group));
  CutSamples cut;
  for (const CutRow& row : rows) {
    absl::StatusOr<rl::Rollout> rollout = place_.peers.codec.Decode(row.bytes);
    if (!rollout.ok()) {
      Log(Severity::kWarning, "a sample begins anew: what was kept of it is damaged",
          {{"group", group}, {"sample", row.sample}, {"why", rollout.status().ToString()}});
      continue;
    }
    const std::optional<int64_t> made_at = training_.OldestStep(rollout->spans);
    if (!made_at || Staleness(*made_at, training_.step()) > place_.plan.rl.max_staleness) continue;
    cut[row.sample] = {*std::move(rollout), row.text, row.episode, row.responses};
  }
  return cut;
}

// A whole group is trained on, unless it has nothing to learn from.
absl::Status RlStage::TakeWhole(int64_t group) {
  const RlConfig& rl = place_.plan.rl;
  std::vector<double> rewards;
  ASSIGN_OR_RETURN(const std::vector<RolloutRow> rows, place_.ledger.Rollouts(group));
  for (const RolloutRow& row : rows) rewards.push_back(row.reward.value_or(0));
  const std::string why = WhyLeftOut(rl.filter, rl.solved, rewards);
  if (why.empty() || left_out_in_a_row_ >= rl.filter.max_in_a_row) {
    left_out_in_a_row_ = 0;
    ready_.insert(group);
    return absl::OkStatus();
  }
  ++left_out_in_a_row_;
  place_.metrics.left_out.With({why}).Add();
  RETURN_IF_ERROR(place_.ledger.Count(why, 1));
  return place_.ledger.DropGroup(group, why);
}

// A trainer that was killed between two batches publishes what it went back to by itself, and
// inference serves it: rollouts are then the first to tell of it, by a version that nobody knows,
// or one beyond that which we had them serve. Without asking the trainer all of them would count as
// abandoned, or as too old, for ever.
absl::Status RlStage::LearnVersions(const std::vector<int64_t>& groups) {
  for (const int64_t group : groups) {
    ASSIGN_OR_RETURN(const std::vector<RolloutRow> rows, place_.ledger.Rollouts(group));
    for (const RolloutRow& row : rows) {
      if (row.max_version > training_.version().value()) return training_.ServeAnew();
      if (!training_.OldestStep(row).has_value()) return training_.Synchronise();
    }
  }
  return absl::OkStatus();
}

// As Training::OldestStep, by all weights that had a part in it.
absl::StatusOr<std::optional<int64_t>> RlStage::MadeAt(const RolloutRow& row) const {
  if (row.min_version == row.max_version) return training_.OldestStep(row);
  ASSIGN_OR_RETURN(const rl::Rollout rollout, place_.peers.codec.Decode(row.bytes));
  return training_.OldestStep(rollout.spans);
}

// Rollouts that are too old, or whose weights a restart has abandoned. Their groups are refilled.
absl::StatusOr<bool> RlStage::DropUnusable(const std::vector<int64_t>& groups) {
  std::vector<std::string> stale, abandoned;
  std::set<int64_t> incomplete;
  for (const int64_t group : groups) {
    ASSIGN_OR_RETURN(const std::vector<RolloutRow> rows, place_.ledger.Rollouts(group));
    for (const RolloutRow& row : rows) {
      ASSIGN_OR_RETURN(const std::optional<int64_t> made_at, MadeAt(row));
      if (!made_at.has_value()) {
        abandoned.push_back(row.id);
      } else if (Staleness(*made_at, training_.step()) > place_.plan.rl.max_staleness) {
        stale.push_back(row.id);
      } else {
        continue;
      }
      incomplete.insert(group);
    }
  }
  RETURN_IF_ERROR(place_.ledger.DropRollouts(stale, "stale"));
  RETURN_IF_ERROR(place_.ledger.DropRollouts(abandoned, "abandoned"));
  place_.metrics.rollouts.With({"stale"}).Add(static_cast<double>(stale.size()));
  place_.metrics.rollouts.With({"abandoned"}).Add(static_cast<double>(abandoned.size()));
  if (incomplete.empty()) return false;
  Log(Severity::kWarning, "rollouts are dropped and made again",
      {{"stale", stale.size()}, {"abandoned", abandoned.size()}});
  ASSIGN_OR_RETURN(const std::vector<GroupRow> open, place_.ledger.Groups(GroupState::kOpen));
  for (const GroupRow& group : open) {
    if (incomplete.count(group.id) == 0) continue;
    ready_.erase(group.id);
    reopened_[group.id] = group;
  }
  return true;
}

absl::StatusOr<RlStage::Rewarded> RlStage::RewardsOf(int64_t group) const {
  ASSIGN_OR_RETURN(const std::vector<RolloutRow> rows, place_.ledger.Rollouts(group));
  Rewarded rewarded;
  for (const RolloutRow& row : rows) {
    ASSIGN_OR_RETURN(const rl::Rollout rollout, place_.peers.codec.Decode(row.bytes));
    const int64_t length = std::max<int64_t>(
        1, std::count(rollout.origins.begin(), rollout.origins.end(), rl::Origin::kSampled));
    rewarded.ids.push_back(row.id);
    rewarded.rewards.push_back(row.reward.value_or(0) +
                               rl::OverlongPenalty(place_.plan.rl.overlong, length));
    rewarded.lengths.push_back(length);
  }
  return rewarded;
}

// Groups that teach nothing give way to the next prompts, in order and up to the bound of a batch;
// those over it stay. The ledger knows how many went, so a restart changes nothing.
absl::StatusOr<bool> RlStage::Redraw(const std::vector<int64_t>& groups) {
  if (place_.plan.rl.max_redraws == 0) return false;
  ASSIGN_OR_RETURN(int64_t dropped, place_.ledger.DroppedSinceBatch());
  bool any = false;
  for (const int64_t group : groups) {
    if (dropped >= place_.plan.rl.max_redraws) break;
    ASSIGN_OR_RETURN(const Rewarded rewarded, RewardsOf(group));
    if (!rl::AllEqual(rewarded.rewards)) continue;
    RETURN_IF_ERROR(place_.ledger.DropGroup(group, "its rewards are all equal"));
    const auto rollouts = static_cast<int64_t>(rewarded.ids.size());
    RETURN_IF_ERROR(place_.ledger.Count("redrawn", rollouts));
    place_.metrics.rollouts.With({"redrawn"}).Add(static_cast<double>(rollouts));
    ready_.erase(group);
    ++dropped;
    any = true;
  }
  return any;
}

absl::Status RlStage::Commit() {
  const auto size = static_cast<size_t>(place_.plan.rl.prompts_per_batch);
  const std::vector<int64_t> groups(ready_.begin(),
                                    std::next(ready_.begin(), static_cast<std::ptrdiff_t>(size)));
  RETURN_IF_ERROR(LearnVersions(groups));
  ASSIGN_OR_RETURN(const bool dropped, DropUnusable(groups));
  if (dropped) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool redrawn, Redraw(groups));
  if (redrawn) return absl::OkStatus();
  std::map<std::string, double> advantages;
  for (const int64_t group : groups) {
    ASSIGN_OR_RETURN(const Rewarded rewarded, RewardsOf(group));
    const std::vector<double> values =
        rl::GroupAdvantages(place_.plan.rl.advantage, rewarded.rewards, rewarded.lengths);
    for (size_t i = 0; i < values.size(); ++i) advantages[rewarded.ids[i]] = values[i];
  }
  RETURN_IF_ERROR(place_.ledger.CommitRlBatch({.step = first_step_ + committed_ + 1,
                                               .id = absl::StrFormat("rl.%d", committed_),
                                               .stage = kRlStage,
                                               .kind = BatchKind::kRl,
                                               .stage_step = committed_},
                                              groups, advantages));
  for (const int64_t group : groups) ready_.erase(group);
  ++committed_;
  training_.AddGenerateSeconds(TakeBusySeconds());
  return absl::OkStatus();
}

double RlStage::TakeBusySeconds() {
  absl::MutexLock lock(&inbox_->mu);
  absl::Duration busy = std::exchange(inbox_->busy, absl::ZeroDuration());
  if (inbox_->working > 0) {
    busy += place_.clock.Now() - inbox_->busy_since;
    inbox_->busy_since = place_.clock.Now();
  }
  return absl::ToDoubleSeconds(busy);
}

absl::Status RlStage::Evaluate() {
  const int64_t served = training_.served_step() - first_step_;
  HeldoutMean mean{.step = served, .prompts = place_.plan.heldout.prompts};
  for (const bool greedy : {false, true}) {
    ASSIGN_OR_RETURN((greedy ? mean.greedy : mean.reward),
                     Measure(place_, training_,
                             {.name = absl::StrFormat("step-%d", served),
                              .context = place_.plan.rl.context,
                              .greedy = greedy,
                              .prompts = place_.plan.heldout.prompts}));
  }
  evaluated_ = served;
  place_.board.Update([&](Progress& p) { p.heldout.push_back(mean); });
  return absl::OkStatus();
}

}  // namespace palimpsest::orchestrator
