#pragma once

#include <memory>
#include <string>

#include "tools/eval/asker.h"
#include "tools/eval/model_facts.h"
#include "tools/eval/peers.h"

namespace palimpsest::tools::eval {

// An asker that lets the peers write and judge: a response, an episode turn by turn, or attempts
// that are aggregated. `id` names the requests of this process: those of another one are others.
// What is referred to outlives it.
std::unique_ptr<Asker> MakeAsker(const Plan& plan, const ModelFacts& model, Peers& peers,
                                 const std::string& id);

}  // namespace palimpsest::tools::eval
