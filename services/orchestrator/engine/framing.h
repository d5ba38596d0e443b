#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/tokenizer/turn_framing.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// How the texts of an episode become tokens, by the model of the run: a TurnFraming, and what an
// expert says besides.
class Framing {
 public:
  // `place` outlives it. FAILED_PRECONDITION: a conversation, and a model without a template that
  // is known, or one that closes no message by a stop id of the model.
  static absl::StatusOr<Framing> Of(const Workplace& place, const Prompt& prompt);

  // As of TurnFraming.
  absl::StatusOr<std::vector<int32_t>> PromptIds() const { return turns_.PromptIds(); }
  absl::StatusOr<std::vector<int32_t>> ObservationIds(const std::vector<Message>& messages,
                                                      int32_t last) const;
  // What ends a response, besides the model's stop ids.
  const std::vector<std::string>& stops() const { return stops_; }
  // Of a response that is not sampled: its end included.
  absl::StatusOr<std::vector<int32_t>> ResponseIds(const std::string& response) const;

 private:
  Framing(const Workplace& place, std::vector<std::string> stops,
          std::unique_ptr<TurnEncoder> encoder, TurnFraming turns)
      : place_(place),
        stops_(std::move(stops)),
        encoder_(std::move(encoder)),
        turns_(std::move(turns)) {}

  const Workplace& place_;
  std::vector<std::string> stops_;
  std::unique_ptr<TurnEncoder> encoder_;  // that turns_ refers to
  TurnFraming turns_;
};

}  // namespace palimpsest::orchestrator
