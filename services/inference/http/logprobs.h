#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "common/tokenizer/tokenizer.h"
#include "palimpsest/v1/inference.pb.h"

// Log-probabilities in the two shapes of the OpenAI API. `tokenizer` may be null.
namespace palimpsest::inference {

// How a token is written: its text; "bytes:\xe2\x80" when that is no whole text; "token_id:7"
// when no tokenizer knows it.
std::string TokenName(int32_t id, const Tokenizer* tokenizer);

// {"content": [{"token", "logprob", "bytes", "top_logprobs": [..]}], "refusal": null}
nlohmann::json ChatLogprobs(const v1::TokenChunk& chunk, const Tokenizer* tokenizer);

// {"tokens", "token_logprobs", "top_logprobs": [{name: nats}], "text_offset"}. The drawn token is
// among its alternatives always. `offset` is where the first token begins, in characters of the
// choice's text, and then where the next one will.
nlohmann::json CompletionLogprobs(const v1::TokenChunk& chunk, const Tokenizer* tokenizer,
                                  int64_t& offset);

// Puts the lists of `more` behind those of `all`, which is null at first.
void AppendLogprobs(const nlohmann::json& more, nlohmann::json& all);

}  // namespace palimpsest::inference
