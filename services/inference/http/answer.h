#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/tokenizer/tokenizer.h"
#include "services/inference/http/ask.h"
#include "services/inference/http/inbox.h"

namespace palimpsest::inference {

// Makes an answer of the OpenAI API from what the replica says, whole or in chunks. One thread.
class Answer {
 public:
  struct Heading {
    std::string id;
    int64_t created = 0;  // unix seconds
    std::string model;
  };
  // `ask` outlives it; `tokenizer` may be null.
  Answer(Heading heading, const Ask& ask, std::shared_ptr<const Tokenizer> tokenizer);

  // Takes in one update; the chunks that a stream sends for it. An error: a sample has failed, and
  // with it the answer.
  absl::StatusOr<std::vector<nlohmann::json>> Hear(const Inbox::Item& item);

  nlohmann::json Whole() const;       // once everything was heard
  nlohmann::json UsageChunk() const;  // the last chunk of a stream that was asked for it

 private:
  // What an update adds to one choice.
  struct Piece {
    int32_t index = 0;
    bool first = false;
    std::string text;
    nlohmann::json logprobs;       // null: none
    nlohmann::json finish_reason;  // null: it goes on
    nlohmann::json palimpsest;     // with finish_reason, when compaction was asked for
  };
  struct Choice {
    std::string text;
    int64_t offset = 0;  // characters so far
    nlohmann::json logprobs, finish_reason, palimpsest;
  };

  absl::StatusOr<std::vector<Piece>> PiecesOf(const Inbox::Item& item);
  std::vector<Piece> Accepted(size_t prompt, const v1::GenerationAccepted& accepted);
  Piece Tokens(const v1::TokenChunk& chunk);
  Piece Finished(const v1::GenerationFinished& finished);
  void Add(const Piece& piece);
  Choice& ChoiceAt(int32_t index);

  nlohmann::json Frame(std::string_view object) const;
  nlohmann::json Chunk(const Piece& piece) const;
  nlohmann::json Usage() const;

  const Heading heading_;
  const Ask& ask_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Choice> choices_;
  int64_t prompt_tokens_ = 0, completion_tokens_ = 0;
};

}  // namespace palimpsest::inference
