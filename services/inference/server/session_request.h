#pragma once

#include "common/tokenizer/tokenizer.h"
#include "palimpsest/v1/inference.pb.h"
#include "services/inference/core/engine.h"

// What a call about a session asks, checked: message -> value, and back. INVALID_ARGUMENT and
// UNIMPLEMENTED name the field; what depends on the session itself is checked by the engine.
namespace palimpsest::inference {

absl::StatusOr<SessionSpec> ParseCreateSession(const v1::CreateSessionRequest& proto,
                                               const Engine& engine);

absl::StatusOr<GenerationRequest> ParseStepSession(const v1::StepSessionRequest& proto,
                                                   const Engine& engine, const Tokenizer* tokenizer,
                                                   absl::Time deadline);

absl::StatusOr<GenerationRequest> ParseCompactSession(const v1::CompactSessionRequest& proto,
                                                      absl::Time deadline);

absl::Status CheckForks(const v1::ForkSessionRequest& proto);

v1::Session ToProto(const SessionInfo& info);

}  // namespace palimpsest::inference
