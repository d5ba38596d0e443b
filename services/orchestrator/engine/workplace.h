#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "services/orchestrator/core/config.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/engine/ledger.h"
#include "services/orchestrator/engine/patience.h"
#include "services/orchestrator/engine/progress_board.h"
#include "services/orchestrator/engine/run_metrics.h"
#include "services/orchestrator/engine/step_trace.h"
#include "services/orchestrator/engine/threads.h"
#include "services/orchestrator/engine/worker_pool.h"

namespace palimpsest::orchestrator {

struct RunIdentity {
  std::string name;
  std::string folder;  // of the run: ledger, store, report
  uint64_t seed = 0;
  std::string command;  // that started it, for the report
  // By key: what the folder was begun with, and must be begun with again.
  std::map<std::string, std::string> settings = {};
};

// What the stages of one run work with. Owned by the run, outlives its stages.
struct Workplace {
  const RunPlan& plan;
  const RunIdentity& run;
  Peers& peers;
  Ledger& ledger;
  ProgressBoard& board;
  const Patience& patience;
  const RunMetrics& metrics;
  WorkerPool& workers;
  Clock& clock;
  Threads& threads;
  const std::atomic<bool>& paused;
  std::atomic<int>& in_flight;  // samples that are being made, of evaluations too
  int32_t attempt = 0;
  // Of the model, once the store holds one.
  std::shared_ptr<const Tokenizer> tokenizer = nullptr;
  std::shared_ptr<const FolderChat> chat = nullptr;
  ModelFacts model = {};
  StepTrace* trace = nullptr;  // null: calls are not traced
};

}  // namespace palimpsest::orchestrator
