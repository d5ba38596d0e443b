#include "tools/eval/aggregation.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "absl/strings/str_format.h"
#include "common/base/random.h"

namespace palimpsest::tools::eval {
namespace {

class Aggregator {
 public:
  Aggregator(const Aggregation& aggregation, uint64_t seed, const MakeAttempt& make)
      : aggregation_(aggregation), seed_(seed), make_(make) {}

  absl::StatusOr<std::string> Attempt(const AttemptName& name) {
    if (const auto made = made_.find(name); made != made_.end()) return made->second;
    std::vector<std::string> texts;
    for (const int32_t member : Reads(aggregation_, seed_, name)) {
      ASSIGN_OR_RETURN(texts.emplace_back(), Attempt({name.round - 1, member}));
    }
    ASSIGN_OR_RETURN(const std::string text, make_(name, texts));
    return made_[name] = text;
  }

 private:
  const Aggregation& aggregation_;
  const uint64_t seed_;
  const MakeAttempt& make_;
  std::map<AttemptName, std::string> made_;
};

}  // namespace

std::vector<int32_t> Reads(const Aggregation& aggregation, uint64_t seed, const AttemptName& name) {
  if (name.round == 0) return {};
  std::vector<int32_t> members(static_cast<size_t>(aggregation.population));
  std::iota(members.begin(), members.end(), 0);
  RandomStream stream(
      MixSeed({seed, Meaning("reads"), uint64_t(name.round), uint64_t(name.member)}));
  const auto k = static_cast<size_t>(aggregation.aggregate);
  for (size_t i = 0; i < k; ++i) {
    const int64_t left = aggregation.population - static_cast<int64_t>(i);
    std::swap(members[i], members[i + static_cast<size_t>(stream.Below(left))]);
  }
  members.resize(k);
  std::sort(members.begin(), members.end());
  return members;
}

absl::StatusOr<std::string> Aggregate(const Aggregation& aggregation, uint64_t seed,
                                      const MakeAttempt& make) {
  return Aggregator(aggregation, seed, make).Attempt({aggregation.rounds - 1, 0});
}

std::string WithAttempts(const std::string& question, const std::vector<std::string>& attempts) {
  if (attempts.empty()) return question;
  std::string text = question;
  for (size_t i = 0; i < attempts.size(); ++i) {
    text += absl::StrFormat("\n\nCandidate %d:\n%s", i + 1, attempts[i]);
  }
  return text + "\n\nCandidates may be wrong. A better answer, from these:\n";
}

}  // namespace palimpsest::tools::eval
