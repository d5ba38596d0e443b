#pragma once

#include <cstdint>

#include "tools/eval/daemon.h"
#include "tools/eval/peers.h"

namespace palimpsest::tools::eval {

// Peers by the contracts. Tokens of other weights than `version` are refused.
class GrpcPeers final : public Peers {
 public:
  GrpcPeers(const Daemons& daemons, int64_t version) : daemons_(daemons), version_(version) {}

  absl::StatusOr<Question> Reset(const AnswerKey& key) override;
  absl::StatusOr<Turn> Step(const std::string& episode, const std::string& response) override;
  absl::StatusOr<Verdict> Score(const std::string& episode, const std::string& response,
                                bool cut) override;
  absl::StatusOr<std::vector<int32_t>> Tokenize(const Saying& saying) override;
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) override;
  absl::StatusOr<Written> Generate(const GenerateCall& call) override;
  absl::StatusOr<std::string> CreateSession(const SessionCall& call) override;
  absl::StatusOr<Written> StepSession(const SessionStep& step) override;
  void DeleteSession(const std::string& session) override;

 private:
  absl::StatusOr<Written> Read(const v1::GenerationFinished& finished) const;

  const Daemons& daemons_;
  const int64_t version_;
};

}  // namespace palimpsest::tools::eval
