#include "services/inference/http/answer.h"

#include <algorithm>

#include "common/wire/context.h"
#include "services/inference/http/logprobs.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

// Without the kept positions: those of a long window are larger than the text.
json EventJson(const v1::CompactionEvent& event) {
  const auto method = wire::FromProto(event.method(), "method");
  return {{"at", event.at()},
          {"window", {event.window().begin(), event.window().end()}},
          {"reference", {event.reference().begin(), event.reference().end()}},
          {"method", method.ok() ? json(context::Name(*method)) : json()},
          {"digest", event.digest()}};
}

json Provenance(const v1::Rollout& rollout) {
  json events = json::array();
  for (const v1::CompactionEvent& event : rollout.events()) events.push_back(EventJson(event));
  json version = nullptr;
  if (rollout.spans_size() > 0) version = rollout.spans().rbegin()->policy_version();
  return {{"events", std::move(events)}, {"policy_version", std::move(version)}};
}

}  // namespace

Answer::Answer(Heading heading, const Ask& ask, std::shared_ptr<const Tokenizer> tokenizer)
    : heading_(std::move(heading)), ask_(ask), tokenizer_(std::move(tokenizer)) {}

// Made when they are first heard of: what was asked for may be more than is ever accepted.
Answer::Choice& Answer::ChoiceAt(int32_t index) {
  if (choices_.size() <= static_cast<size_t>(index)) choices_.resize(index + 1);
  return choices_[index];
}

absl::StatusOr<std::vector<json>> Answer::Hear(const Inbox::Item& item) {
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf(item));
  std::vector<json> chunks;
  for (const Piece& piece : pieces) {
    Add(piece);
    if (ask_.stream) chunks.push_back(Chunk(piece));
  }
  return chunks;
}

absl::StatusOr<std::vector<Answer::Piece>> Answer::PiecesOf(const Inbox::Item& item) {
  const v1::GenerateResponse& update = *item.update;
  switch (update.update_case()) {
    case v1::GenerateResponse::kAccepted:
      return Accepted(item.prompt, update.accepted());
    case v1::GenerateResponse::kTokens: {
      Piece piece = Tokens(update.tokens());
      // Half a character, or what may become a stop string: it comes with a later token.
      if (piece.text.empty() && piece.logprobs.is_null()) return std::vector<Piece>();
      return std::vector<Piece>{std::move(piece)};
    }
    case v1::GenerateResponse::kFinished:
      return std::vector<Piece>{Finished(update.finished())};
    case v1::GenerateResponse::kError:
      return absl::Status(static_cast<absl::StatusCode>(update.error().code()),
                          update.error().message());
    case v1::GenerateResponse::kCompaction:  // Finished tells them all
    case v1::GenerateResponse::UPDATE_NOT_SET:
      break;
  }
  return std::vector<Piece>();
}

std::vector<Answer::Piece> Answer::Accepted(size_t prompt, const v1::GenerationAccepted& accepted) {
  prompt_tokens_ += accepted.prompt_ids_size();
  std::string echo;
  if (ask_.echo && tokenizer_ != nullptr) {
    const std::vector<int32_t> ids(accepted.prompt_ids().begin(), accepted.prompt_ids().end());
    echo = tokenizer_->Decode(ids).value_or("");
  }
  std::vector<Piece> pieces;
  if (!ask_.chat && echo.empty()) return pieces;
  const int32_t first = ask_.prompts[prompt].first_sample();
  for (int32_t i = 0; i < ask_.n; ++i) {
    pieces.push_back({.index = first + i, .first = true, .text = echo});
  }
  return pieces;
}

Answer::Piece Answer::Tokens(const v1::TokenChunk& chunk) {
  Piece piece{.index = chunk.sample(), .text = chunk.text()};
  if (!ask_.logprobs) return piece;
  piece.logprobs = ask_.chat
                       ? ChatLogprobs(chunk, tokenizer_.get())
                       : CompletionLogprobs(chunk, tokenizer_.get(), ChoiceAt(piece.index).offset);
  return piece;
}

Answer::Piece Answer::Finished(const v1::GenerationFinished& finished) {
  const v1::Rollout& rollout = finished.rollout();
  completion_tokens_ +=
      std::count(rollout.origins().begin(), rollout.origins().end(), v1::TOKEN_ORIGIN_SAMPLED);
  Piece piece{.index = finished.sample()};
  const bool told = ask_.prompts.front().stream_tokens();
  if (!told) piece.text = finished.text();
  piece.finish_reason = rollout.finish_reason() == v1::FINISH_REASON_STOP ? "stop" : "length";
  if (ask_.compacts) piece.palimpsest = Provenance(rollout);
  return piece;
}

void Answer::Add(const Piece& piece) {
  if (ask_.stream) return;  // it has gone out
  Choice& choice = ChoiceAt(piece.index);
  choice.text += piece.text;
  if (!piece.logprobs.is_null()) AppendLogprobs(piece.logprobs, choice.logprobs);
  if (!piece.finish_reason.is_null()) {
    choice.finish_reason = piece.finish_reason;
    choice.palimpsest = piece.palimpsest;
  }
}

json Answer::Frame(std::string_view object) const {
  return {{"id", heading_.id},
          {"object", object},
          {"created", heading_.created},
          {"model", heading_.model},
          {"choices", json::array()}};
}

json Answer::Chunk(const Piece& piece) const {
  json frame = Frame(ask_.chat ? "chat.completion.chunk" : "text_completion");
  json choice = {
      {"index", piece.index}, {"logprobs", piece.logprobs}, {"finish_reason", piece.finish_reason}};
  if (ask_.chat) {
    choice["delta"] = json::object();
    if (piece.first) choice["delta"]["role"] = "assistant";
    if (piece.first || !piece.text.empty()) choice["delta"]["content"] = piece.text;
  } else {
    choice["text"] = piece.text;
  }
  if (!piece.palimpsest.is_null()) choice["palimpsest"] = piece.palimpsest;
  frame["choices"].push_back(std::move(choice));
  if (ask_.include_usage) frame["usage"] = nullptr;
  return frame;
}

json Answer::Whole() const {
  json frame = Frame(ask_.chat ? "chat.completion" : "text_completion");
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& said = choices_[i];
    json choice = {
        {"index", i}, {"logprobs", said.logprobs}, {"finish_reason", said.finish_reason}};
    if (ask_.chat) {
      choice["message"] = {{"role", "assistant"}, {"content", said.text}, {"refusal", nullptr}};
    } else {
      choice["text"] = said.text;
    }
    if (!said.palimpsest.is_null()) choice["palimpsest"] = said.palimpsest;
    frame["choices"].push_back(std::move(choice));
  }
  frame["usage"] = Usage();
  return frame;
}

json Answer::UsageChunk() const {
  json frame = Frame(ask_.chat ? "chat.completion.chunk" : "text_completion");
  frame["usage"] = Usage();
  return frame;
}

json Answer::Usage() const {
  return {{"prompt_tokens", prompt_tokens_},
          {"completion_tokens", completion_tokens_},
          {"total_tokens", prompt_tokens_ + completion_tokens_}};
}

}  // namespace palimpsest::inference
