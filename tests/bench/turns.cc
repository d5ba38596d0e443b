#include "tests/bench/turns.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "common/base/clock.h"

namespace palimpsest::bench {
namespace {

absl::StatusOr<Json> Answer(
    const std::map<std::string, std::function<absl::StatusOr<Json>(const Json&)>>& jobs,
    const std::string& line) {
  try {
    const Json job = Json::parse(line);
    const auto found = jobs.find(job.at("what").get<std::string>());
    if (found == jobs.end()) return absl::InvalidArgumentError("no job is called so: " + line);
    return found->second(job);
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(line + ": " + error.what());
  }
}

}  // namespace

std::vector<int32_t> PromptOf(int turn, int stream, int tokens, int vocab) {
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < tokens; ++i)
    prompt.push_back(static_cast<int32_t>(
        (turn * int64_t{7919} + stream * int64_t{104729} + i * 31 + 7) % vocab));
  return prompt;
}

void ServeJobs(
    const std::map<std::string, std::function<absl::StatusOr<Json>(const Json&)>>& jobs) {
  std::cout << R"({"ready": true})" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const absl::StatusOr<Json> answer = Answer(jobs, line);
    const Json told = answer.ok() ? *answer : Json{{"error", answer.status().ToString()}};
    std::cout << told.dump() << std::endl;
  }
}

TokenClock::TokenClock(int streams, int tokens)
    : tokens_(tokens), missing_(streams, tokens), open_(streams), without_(streams) {}

void TokenClock::Note(int stream, int new_tokens) {
  const absl::Time now = SystemClock().Now();
  absl::MutexLock lock(&mu_);
  if (missing_[stream] == tokens_) {
    --without_;
    all_have_one_ = now;
  } else if (without_ > 0) {
    early_ += new_tokens;
  }
  missing_[stream] -= new_tokens;
  if (missing_[stream] == 0) --open_;
  last_ = now;
}

void TokenClock::Fail(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  status_.Update(status);
}

absl::Status TokenClock::Wait() {
  const auto over = [this]()
                        ABSL_SHARED_LOCKS_REQUIRED(mu_) { return open_ == 0 || !status_.ok(); };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&over));
  return status_;
}

double TokenClock::SecondsToFirst(absl::Time begin) const {
  absl::MutexLock lock(&mu_);
  return absl::ToDoubleSeconds(all_have_one_ - begin);
}

int TokenClock::early() const {
  absl::MutexLock lock(&mu_);
  return early_;
}

double TokenClock::SecondsPerStep() const {
  absl::MutexLock lock(&mu_);
  return tokens_ == 1 ? 0 : absl::ToDoubleSeconds(last_ - all_have_one_) / (tokens_ - 1);
}

}  // namespace palimpsest::bench
