#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/attention/live_slots.h"
#include "common/attention/packed_batch.h"
#include "common/base/status.h"
#include "common/compaction/carried.h"
#include "common/context/policy.h"

namespace palimpsest::model {
class Decoder;
}

// Where cached bytes and weights are: the one thing that knows whether a step runs on this
// machine's processors or on a GPU. Its caller says who runs, who owns which page, how many slots
// a head has and when an event falls; a device ranks a window's slots, no more. Plain values.
// Letters: L layers, Hk KV heads, N slots of the pool, V vocabulary.
namespace palimpsest::inference {

// Post-RoPE queries (and keys, where events listen to them) of one sequence, in every layer:
// position p stands in row p % capacity. Holds what was recorded last there.
class QueryRing {
 public:
  virtual ~QueryRing() = default;
  virtual std::unique_ptr<QueryRing> Clone() const = 0;
};

// What one sequence brings to a step: tokens at neighbouring positions. Row i sees the slots that
// were there before the step and rows [0, i] of its own.
struct StepRows {
  std::span<const int32_t> tokens;   // not empty
  int32_t position = 0;              // of the first
  std::span<const int32_t> table;    // pages; slot i stands in page table[i / kPageSlots]
  std::span<const int32_t> lengths;  // [L * Hk] slots before; there are pages for the rows behind
  QueryRing* ring = nullptr;         // null: no query of these rows is recorded
  int32_t skipped = 0;               // of the rows, from the first: their queries are not either
};

// An event of one sequence, whose pages from the window's first slot on are its own. Heads of its
// layers are solved one after another; `state` is that of before the event all the time.
struct EventTask {
  const attention::ReplayEvent* request = nullptr;  // forced: its positions stay
  bool measured = false;                            // is `quality` asked for?
  const context::ContextState* state = nullptr;
  std::span<const int32_t> table;
  std::span<const int32_t> lengths;  // [L * Hk] slots of each head now
  const QueryRing* ring = nullptr;   // null: it listens to nobody
  context::Range recorded = {};      // positions that stand in the ring
  // [H'] of the slice's heads, brought up to date; empty: nothing is carried.
  std::span<compaction::CarriedImportance> carried = {};
  // Answers.
  std::vector<std::vector<int32_t>> kept;  // of each head of the slice: positions, ascending
  context::Quality quality = {};           // added to: sums over heads; the residual is the worst
  // An error: this event cannot be made here; INVALID_ARGUMENT: whoever asks again gets it again.
  absl::Status status;
};

// The live slots of a head, where they stand in the pool.
attention::HeadSlots LiveSlots(const context::ContextState& state, std::span<const int32_t> table,
                               int32_t length, int layer, int head);

// Weights that are there and not yet live.
class StagedWeights {
 public:
  virtual ~StagedWeights() = default;
};

// Owner: the engine's thread, but for Stage. What goes wrong in a step (no memory, a device that
// fails) is thrown: the step is lost then, and what was running with it. What is thrown where a
// ring finds no memory is a std::bad_alloc, and nothing has changed.
class StepDevice {
 public:
  virtual ~StepDevice() = default;

  // Can it make the events of a policy, as far as that alone tells, and one whose positions are
  // given? INVALID_ARGUMENT naming field and value.
  virtual absl::Status CheckPolicy(const context::ContextPolicy& policy) const = 0;
  virtual absl::Status CheckForced(const context::Event& event) const = 0;

  // New weights of the same model beside those that are live. Thread: any.
  virtual absl::StatusOr<std::unique_ptr<StagedWeights>> Stage(
      std::shared_ptr<const model::Decoder> decoder) const = 0;
  // Makes them live, between two steps.
  virtual void Flip(std::unique_ptr<StagedWeights> weights) = 0;

  // All layers of page `from` into page `to`.
  virtual void CopyPage(int32_t from, int32_t to) = 0;
  virtual std::unique_ptr<QueryRing> NewRing(int32_t capacity, bool keys) = 0;

  // One forward pass: keys and values of all rows into the pool with bias 0, queries into rings.
  // Spans are read before it returns; the pass itself may end later, at the latest in Logits.
  virtual void Run(std::span<const StepRows> sequences) = 0;
  // Of rows of the last pass, counted through all its sequences: fp32 [rows, V]. They stand until
  // the device is called again. No rows: waits for the pass.
  virtual std::span<const float> Logits(std::span<const int32_t> rows) = 0;

  // Heads [first_head, first_head + heads) of one layer of every event: chooses what stays of the
  // window (unless forced), fits, and rewrites the pool, so that a head's slots stand without gaps.
  virtual void Solve(int layer, int first_head, int heads, std::span<EventTask> events) = 0;

  // After something was thrown: OK, the next step may go well; or why none ever will (a GPU that
  // answers all calls with the error of an earlier one): the process has to start anew.
  virtual absl::Status Usable() = 0;
};

}  // namespace palimpsest::inference
