#pragma once

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "services/inference/core/admission.h"
#include "services/inference/core/prefix_tree.h"
#include "services/inference/core/sampler.h"
#include "services/inference/core/step_times.h"
#include "services/inference/engine/event_job.h"
#include "services/inference/engine/sequence.h"
#include "services/inference/engine/session_table.h"
#include "services/inference/engine/step_runner.h"

namespace palimpsest::inference {

// All that is being decoded. One step: open the events that fall due and work on those that are
// open, for half of a median step when others have something to decode; process one chunk of every
// other sequence in one forward pass, prompts beside those who decode for half of a median step,
// too; draw the next tokens. Owned and used by the engine thread; no
// locks, no waiting. Invariant: pages in use and recorded queries never exceed the pool's bytes;
// what slots carry counts from the end of its event on, for the next step.
// When a step needs more than is free, sessions that rest give their memory back first; then
// sequences whose policy allows it compact earlier; then the youngest gives its cache back, and
// later comes back by replaying its log: so the oldest always goes on.
class RunningBatch {
 public:
  // What `sessions` hold rests in this batch's pages; it outlives the batch, as does the device.
  RunningBatch(const ModelInfo& model, const Limits& limits, const Tokenizer* tokenizer,
               const EngineObserver& observer, Clock& clock, SessionTable& sessions,
               StepDevice& device);

  bool empty() const { return groups_.empty() && running_.empty() && preempted_.empty(); }
  // Is there room for its prompt now, with nobody waiting to come back? Resting sessions make some.
  bool MakeRoomFor(const GenerationRequest& request);
  void Admit(std::shared_ptr<RequestState> owner, PolicyVersion version);
  // Log-probabilities of a request without events by the device's pass, under the live weights. Its
  // pages are taken from whoever has them, as for the oldest; RESOURCE_EXHAUSTED: the pool is too
  // small.
  absl::StatusOr<ScoreResult> Score(const ScoreRequest& request, PolicyVersion version);
  // After a fork, which copies recorded queries: resting sessions lose KV until the bound holds.
  void KeepBound();

  void Step(PolicyVersion version);
  // The coming steps run under new weights. kRecompute: every cache is built again from its log.
  // Resting sessions keep their KV under kKeep only.
  void NewWeights(WeightsMode mode);
  // Ends what was cancelled or is past its deadline, with its partial rollouts.
  void Sweep();

  Load load() const;  // queued is not known here

 private:
  // A request whose samples have not all been started.
  struct Group {
    std::shared_ptr<RequestState> owner;
    std::unique_ptr<Sequence> prompt;
    std::vector<float> logits;  // of the prompt's last row, once it is processed
    PolicyVersion logits_version;
    std::deque<int32_t> to_start;  // samples, ascending
  };

  void CheckPages() const;
  std::vector<DueEvent> FindDueEvents();
  bool Consider(Sequence& s, std::vector<DueEvent>& due);
  void ConsiderAsked(Sequence& s, std::vector<DueEvent>& due);
  size_t JobSize(const std::vector<DueEvent>& due) const;
  void OpenJobs();
  void LetWait(std::vector<DueEvent>& due);
  double WaitingForEvents() const;
  void WorkOnJobs(size_t decoding);
  void RunPass(const std::vector<StepItem>& items, PolicyVersion version);
  void CloseJob(EventJob& job);
  std::vector<StepItem> PlanStep();
  void TakeLogits(const StepOutput& output, const std::vector<StepItem>& items,
                  PolicyVersion version);
  void StartSamples();
  int64_t FreeBytes() const;
  // Of these, what no prompt or log that is being processed is still to take.
  int64_t Unpromised() const;
  // What is left free when something is admitted: a page for each that runs, and for the new one.
  int64_t Headroom() const;
  // The same for one that comes back: those with a budget will fill it, the others take a page.
  int64_t ToStay() const;
  // What the caches of `items` will take; those that can take none are dropped from the list.
  int64_t BytesToReserve(std::vector<StepItem>& items) const;
  void MakeRoom(const std::function<int64_t()>& bytes);
  void FreePages(int64_t pages);
  void MakeRoomEarly(std::vector<StepItem>& items);
  std::optional<int64_t> EarlyPages() const;
  bool OpenEarlyEvent();
  bool RoomFor(int64_t bytes, const std::string& not_of = "");
  void Recompute();
  void AdoptPrefix(Sequence& s);
  void KeepPrefix(const Sequence& s);
  void LoseCache(Sequence& s);
  bool PreemptYoungest(const Sequence* than);
  bool PreemptLast();
  void Resume();
  std::unique_ptr<SequenceCache> NewCache(const GenerationRequest& request);
  void AdmitStep(std::shared_ptr<RequestState> owner, PolicyVersion version);
  void StartText(Sequence& s) const;
  std::unique_ptr<Sequence> NewSequence(std::shared_ptr<RequestState> owner, int32_t sample);
  std::unique_ptr<Sequence> BegunSequence(std::shared_ptr<RequestState> owner,
                                          const rl::Rollout& begun);
  static Draw DrawNext(const Sequence& s, std::span<const float> logits);  // changes nothing
  void Accept(Sequence& s, const Draw& draw, PolicyVersion version);
  void AcceptText(Sequence& s, TokenChunk& chunk);
  void Inject(Sequence& s, PolicyVersion version);
  void End(Sequence& s);
  void Fail(Sequence& s, const absl::Status& status, bool retryable, rl::Outcome outcome);
  void FailGroup(Group& group, const absl::Status& status, bool retryable, rl::Outcome outcome);
  void DropStopped();
  void DropStopped(std::vector<std::unique_ptr<Sequence>>& list);

  const ModelInfo& model_;
  const Limits& limits_;
  const Tokenizer* tokenizer_;  // may be null
  const EngineObserver& observer_;
  Clock& clock_;
  SessionTable& sessions_;
  const CacheCost cost_;
  StepDevice& device_;
  PagePool pages_;
  PrefixTree prefixes_;  // of the live weights
  int64_t flips_ = 0;    // new weights so far
  PolicyVersion version_;
  std::list<Group> groups_;
  std::vector<std::unique_ptr<Sequence>> running_;    // each has a cache
  std::vector<std::unique_ptr<Sequence>> preempted_;  // none has
  std::deque<EventJob> jobs_;                         // open, in their order
  StepTimes times_;
  EventCredit event_credit_;
  int64_t admitted_ = 0;  // requests so far
};

}  // namespace palimpsest::inference
