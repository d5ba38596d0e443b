#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "services/orchestrator/core/progress.h"
#include "services/orchestrator/engine/ledger.h"

// Values as the JSON that the page reads. Absent numbers and numbers that are not finite are null.
namespace palimpsest::orchestrator {

// `live`: a process makes this run now; else what is told is what its ledger remembers. `phase`:
// in place of the progress's own, which knows no run that stands still.
nlohmann::json ProgressJson(const Progress& progress, const std::string& phase, bool live);

// At most about `points` steps: neighbours are taken together, as means, and as the worst of them
// where the worst is what one looks for. Held-out means stand at the step of RL that they were
// measured after; those under other contexts have none.
nlohmann::json CurvesJson(const std::vector<StepRow>& steps,
                          const std::vector<EvaluationMean>& heldout, int32_t points);

nlohmann::json FleetJson(const std::vector<PeerFacts>& peers, const std::vector<StageRow>& stages,
                         const std::vector<Weights>& versions);

// What a list shows of a rollout: no tokens, the text cut.
nlohmann::json RowJson(const RolloutRow& row);

// `pieces`: the text of each token. `kept_heads` of an event: for each position of its window, how
// many of all KV heads kept it. `replayed`: rl::ByPosition of what was replayed of it, empty where
// that is not kept. `trained`: the step that it was trained in, with the mismatch of its batch.
nlohmann::json RolloutJson(const RolloutRow& row, const rl::Rollout& rollout,
                           const std::vector<std::string>& pieces, std::span<const float> replayed,
                           const std::optional<StepRow>& trained);

// Of event `n`, for each layer and KV head: the positions of its window that the head still held
// before it, and those that it kept. Both [L][Hk][..]; `held` is null for a log that contradicts
// itself.
nlohmann::json KeptJson(const rl::Rollout& rollout, size_t n);

// The text of a value; bytes that are no UTF-8 are replaced.
std::string Dump(const nlohmann::json& value);

}  // namespace palimpsest::orchestrator
