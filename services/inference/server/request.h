#pragma once

#include <grpcpp/server_context.h>

#include <span>

#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "palimpsest/v1/inference.pb.h"
#include "services/inference/core/engine.h"

// What a request asks, checked: message -> value. INVALID_ARGUMENT and UNIMPLEMENTED name the
// field.
namespace palimpsest::inference {

// 1 to 128 bytes.
absl::Status CheckRequestId(const std::string& id);

// At most 128 bytes.
absl::Status CheckClient(const std::string& client);

// `path` names the field that they stand in.
absl::Status CheckIds(std::string_view path, std::span<const int32_t> ids, int32_t vocab);

// `tokenizer` null: whatever needs text is FAILED_PRECONDITION.
absl::StatusOr<rl::SamplingParams> ParseSampling(const v1::SamplingParams& proto,
                                                 const Tokenizer* tokenizer);
absl::StatusOr<rl::BudgetMessages> ParseBudgetMessages(const v1::BudgetMessages& proto,
                                                       const Tokenizer* tokenizer);

// FAILED_PRECONDITION when the live weights are older than asked.
absl::Status CheckMinVersion(const std::optional<int64_t>& asked, PolicyVersion live);

// The ids of a conversation; refusals begin with `path`, the field it stands in.
// FAILED_PRECONDITION: no tokenizer, or the model's template is not known. `chat` is not null where
// `tokenizer` is not.
absl::StatusOr<std::vector<int32_t>> EncodeChat(std::string_view path, const v1::ChatPrompt& proto,
                                                const Tokenizer* tokenizer, const FolderChat* chat);

// `tokenizer` and `chat` null: a request that needs text is FAILED_PRECONDITION.
absl::StatusOr<GenerationRequest> ParseGenerate(const v1::GenerateRequest& proto,
                                                const Engine& engine, const Tokenizer* tokenizer,
                                                const FolderChat* chat, absl::Time deadline);

absl::StatusOr<ScoreRequest> ParseScore(const v1::ScoreRequest& proto, const Engine& engine);

// The call's deadline; InfiniteFuture when it has none.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

}  // namespace palimpsest::inference
