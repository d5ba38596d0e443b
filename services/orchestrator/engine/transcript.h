#pragma once

#include <string>

#include "common/rl/rollout.h"
#include "common/tokenizer/tokenizer.h"

namespace palimpsest::orchestrator {

// Control characters but line ends and tabs as \x07: with them a page would not be a text to tools.
std::string Printable(const std::string& text);

// A rollout as Markdown: its text, and a table of its events with the text of each window. There
// the tokens that one KV head kept (`layer`, `head`) stand as they are, those that it lost are
// dots: one dot a token.
std::string Transcript(const rl::Rollout& rollout, const Tokenizer& tokenizer, int layer, int head);

// What `layer` and `head` kept of an event's window.
std::string MarkedWindow(const rl::Rollout& rollout, const context::Event& event,
                         const Tokenizer& tokenizer, int layer, int head);

}  // namespace palimpsest::orchestrator
