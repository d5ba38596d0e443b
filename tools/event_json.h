#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/context/types.h"
#include "common/rl/rollout.h"
#include "common/tokenizer/chat_template.h"

// The JSON of the command: what it prints and what it reads back. README.md shows the shapes.
namespace palimpsest::tools {

nlohmann::json EventJson(const context::Event& event);

// An event may lack its digest and its quality (or have them null), nothing else; unknown keys are
// refused. Errors begin with `path`: "events[2].kept[0][1]: ...".
absl::StatusOr<context::Event> EventFromJson(const nlohmann::json& json, const std::string& path);

// What `generate` prints: the prompt, the tokens after it with their log-probabilities and origins,
// and the events.
nlohmann::json GenerationJson(const rl::Rollout& rollout);

// Those that sampled, in the order of the tokens; each once.
std::vector<int64_t> PolicyVersions(const rl::Rollout& rollout);

// Reads a whole file. Errors name it.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// {"ids": [...]}: not negative. Other keys, as `generate` prints them, are passed over.
absl::StatusOr<std::vector<int32_t>> ParseIds(std::string_view text, const std::string& where);

// Likewise, with the ids of "prompt_ids" before them where there are any: a whole sequence.
absl::StatusOr<std::vector<int32_t>> ParseSequence(std::string_view text, const std::string& where);

// A file with an `events` array; other keys, as `generate` prints them, are passed over.
absl::StatusOr<std::vector<context::Event>> ParseEvents(std::string_view text,
                                                        const std::string& where);

// {"text": "..."}: other keys, as data sets have them, are passed over.
absl::StatusOr<std::string> ParseText(std::string_view text, const std::string& where);

// {"messages": [{"role", "content", "reasoning_content"?}, ..], "add_generation_prompt"?,
// "enable_thinking"?, "date_string"?}: other keys are refused, and so is null.
absl::StatusOr<Chat> ParseChat(std::string_view text, const std::string& where);

}  // namespace palimpsest::tools
