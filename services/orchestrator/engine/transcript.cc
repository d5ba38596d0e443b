#include "services/orchestrator/engine/transcript.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace palimpsest::orchestrator {
namespace {

// Text inside of a table's code cell: one line, no bars, no back-ticks.
std::string Cell(const std::string& text) {
  return absl::StrReplaceAll(Printable(text), {{"\n", "⏎"}, {"|", "¦"}, {"`", "'"}});
}

std::string Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  const absl::StatusOr<std::string> text = tokenizer.Decode(ids);
  return text.ok() ? *text : text.status().ToString();
}

// "12" or "9-12": kept counts over all heads of the event.
std::string KeptCounts(const context::KeptPositions& kept) {
  size_t least = SIZE_MAX, most = 0;
  for (int layer = 0; layer < kept.shape().layers; ++layer) {
    for (int head = 0; head < kept.shape().kv_heads; ++head) {
      least = std::min(least, kept.at(layer, head).size());
      most = std::max(most, kept.at(layer, head).size());
    }
  }
  return least >= most ? absl::StrFormat("%d", most) : absl::StrFormat("%d-%d", least, most);
}

}  // namespace

std::string Printable(const std::string& text) {
  std::string page;
  for (size_t at = 0; at < text.size(); ++at) {
    auto c = static_cast<unsigned char>(text[at]);
    // U+0080 to U+009F are controls, too; in UTF-8 they are C2 and the byte itself.
    const auto next = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0;
    const bool high = c == 0xC2 && next >= 0x80 && next < 0xA0;
    if (high) c = next;
    const bool control = high || c == 0x7F || (c < 0x20 && c != '\n' && c != '\t');
    page += control ? absl::StrFormat("\\x%02x", c) : text.substr(at, 1);
    at += high;
  }
  return page;
}

std::string MarkedWindow(const rl::Rollout& rollout, const context::Event& event,
                         const Tokenizer& tokenizer, int layer, int head) {
  const std::span<const int32_t> kept = event.kept.at(layer, head);
  std::string marked;
  for (int32_t p = event.window.begin; p < event.window.end; ++p) {
    if (std::binary_search(kept.begin(), kept.end(), p)) {
      marked += Decode(tokenizer, std::span(rollout.tokens).subspan(static_cast<size_t>(p), 1));
    } else {
      marked += "·";
    }
  }
  return marked;
}

std::string Transcript(const rl::Rollout& rollout, const Tokenizer& tokenizer, int layer,
                       int head) {
  const std::span<const int32_t> tokens = rollout.tokens;
  const auto prompt = static_cast<size_t>(rollout.prompt_tokens);
  std::string page =
      absl::StrFormat("Prompt (%d tokens) and response (%d):\n\n```\n%s\n%s\n```\n\n", prompt,
                      tokens.size() - prompt, Printable(Decode(tokenizer, tokens.first(prompt))),
                      Printable(Decode(tokenizer, tokens.subspan(prompt))));
  if (rollout.events.empty()) return page + "Nothing was compacted.\n";
  page += absl::StrFormat(
      "Events; kept = slots per KV head; in the window's text, what layer %d, KV head %d kept, and "
      "a dot for each token that it lost.\n\n| at | window | method | kept | text of the window |\n"
      "|---|---|---|---|---|\n",
      layer, head);
  for (const context::Event& event : rollout.events) {
    page += absl::StrFormat(
        "| %d | [%d, %d) | %s | %s of %d | `%s` |\n", event.at, event.window.begin,
        event.window.end, std::string(context::Name(event.method)), KeptCounts(event.kept),
        event.window.size(), Cell(MarkedWindow(rollout, event, tokenizer, layer, head)));
  }
  return page;
}

}  // namespace palimpsest::orchestrator
