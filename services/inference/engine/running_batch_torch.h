#pragma once

#include <list>
#include <memory>
#include <vector>

#include "services/inference/engine/event_executor.h"
#include "services/inference/engine/sequence_torch.h"
#include "services/inference/engine/step_runner.h"

namespace palimpsest::inference {

// All that is being decoded. One step: decide and solve the events that fall due, process one chunk
// of every sequence in one forward pass, draw the next tokens. Owned and used by the engine thread;
// no locks, no waiting. Invariant: reserved bytes <= pool bytes, so that a page is always there for
// whoever was admitted.
class RunningBatch {
 public:
  RunningBatch(const ModelInfo& model, const Limits& limits, const Tokenizer* tokenizer,
               const EngineObserver& observer, Clock& clock);

  bool empty() const { return groups_.empty() && running_.empty(); }
  // Is there room for the prompt and one sample of this request?
  bool CanAdmit(const GenerationRequest& request) const;
  void Admit(std::shared_ptr<RequestState> owner);

  void Step(const model::Decoder& decoder, PolicyVersion version);
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
    int32_t started = 0;
    bool slot_free = true;  // the reservation of one sample that the group keeps is not in use
  };

  void CheckPages() const;
  void SolveDueEvents(model::Kernels kernels);
  std::vector<absl::Status> Execute(std::vector<DueEvent>& due, model::Kernels kernels);
  std::vector<StepItem> PlanStep();
  void Draw(const StepOutput& output, const std::vector<StepItem>& items, PolicyVersion version);
  void StartSamples();
  std::unique_ptr<Sequence> NewSequence(std::shared_ptr<RequestState> owner, int32_t sample);
  void Accept(Sequence& s, std::span<const float> logits, PolicyVersion version);
  void AcceptText(Sequence& s, TokenChunk& chunk);
  void Inject(Sequence& s, PolicyVersion version);
  void End(Sequence& s);
  void Fail(Sequence& s, const absl::Status& status, bool retryable, rl::Outcome outcome);
  void FailGroup(Group& group, const absl::Status& status, bool retryable, rl::Outcome outcome);
  void ReturnSlot(const RequestState& owner);
  void DropStopped();

  const ModelInfo& model_;
  const Limits& limits_;
  const Tokenizer* tokenizer_;  // may be null
  const EngineObserver& observer_;
  Clock& clock_;
  KvPool pool_;
  PolicyVersion version_;
  std::list<Group> groups_;
  std::vector<std::unique_ptr<Sequence>> running_;
  int64_t reserved_bytes_ = 0;
};

}  // namespace palimpsest::inference
