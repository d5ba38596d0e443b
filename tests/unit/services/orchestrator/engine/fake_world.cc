#include "tests/unit/services/orchestrator/engine/fake_world.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/tokenizer/byte_tokenizer.h"

namespace palimpsest::orchestrator {
namespace {

bool TakeOne(std::atomic<int>& left) {
  int now = left;
  while (now > 0 && !left.compare_exchange_weak(now, now - 1)) {
  }
  return now > 0;
}

constexpr int kTurns = 3;  // of the task "talk"

template <class Ids>
void Append(const Ids& ids, rl::Origin origin, int64_t version, rl::Rollout& rollout) {
  const auto begin = static_cast<int32_t>(rollout.tokens.size());
  rollout.tokens.insert(rollout.tokens.end(), ids.begin(), ids.end());
  const auto end = static_cast<int32_t>(rollout.tokens.size());
  rollout.origins.resize(rollout.tokens.size(), origin);
  rollout.logprobs.resize(rollout.tokens.size(), origin == rl::Origin::kSampled ? -0.5f : 0.0f);
  if (end == begin) return;
  if (!rollout.spans.empty() && rollout.spans.back().version.value() == version) {
    rollout.spans.back().end = end;
  } else {
    rollout.spans.push_back({begin, end, PolicyVersion(version), 0});
  }
}

rl::Rollout Started(const std::string& id, const std::vector<int32_t>& prompt, uint64_t seed) {
  rl::Rollout rollout{.id = id,
                      .tokens = prompt,
                      .prompt_tokens = static_cast<int32_t>(prompt.size()),
                      .seed = seed};
  rollout.origins.assign(prompt.size(), rl::Origin::kPrompt);
  rollout.logprobs.assign(prompt.size(), 0.0f);
  return rollout;
}

rl::Rollout MakeRollout(const GenerateCall& call, int32_t sample, const std::string& text,
                        int64_t version) {
  rl::Rollout rollout = Started(call.request_id, call.prompt, call.sampling.seed);
  Append(text, rl::Origin::kSampled, version, rollout);
  rollout.sample = sample;
  rollout.greedy = call.sampling.temperature == 0;
  return rollout;
}

// "<version>." is said, "<sample>" is not.
void Cut(Sample& sample) {
  sample.status = absl::CancelledError("aborted");
  sample.outcome = rl::Outcome::kCancelled;
  rl::Rollout& rollout = sample.rollout;
  rollout.tokens.pop_back();
  rollout.origins.pop_back();
  rollout.logprobs.pop_back();
  rollout.spans.back().end = static_cast<int32_t>(rollout.tokens.size());
  rollout.finish_reason = rl::FinishReason::kCancelled;
  sample.text.clear();
}

// What was said before stands; the rest is said by the weights of now.
void GoOn(const rl::Rollout& begun, int64_t version, Sample& sample) {
  const std::string rest = std::to_string(sample.sample);
  sample.rollout = begun;
  sample.rollout.finish_reason = rl::FinishReason::kStop;
  sample.text.assign(begun.tokens.begin() + begun.prompt_tokens, begun.tokens.end());
  sample.text += rest;
  Append(rest, rl::Origin::kSampled, version, sample.rollout);
}

// Sampled token i came out by 0.001 (i + 1) likelier.
rl::Replayed ReplayedOf(const rl::Rollout& rollout) {
  rl::Replayed replayed{.id = rollout.id};
  for (size_t p = 0; p < rollout.tokens.size(); ++p) {
    if (rollout.origins[p] != rl::Origin::kSampled) continue;
    const auto i = static_cast<float>(replayed.logprobs.size());
    replayed.logprobs.push_back(rollout.logprobs[p] + 0.001f * (i + 1));
  }
  return replayed;
}

}  // namespace

FakeWorld::FakeWorld(std::string folder) : folder_(std::move(folder)) {
  WriteVersion(1);
  published_.push_back({.version = PolicyVersion(1), .step = 0, .run = "test"});
}

void FakeWorld::WriteVersion(int64_t version) {
  const std::string place = absl::StrFormat("%s/store/v%08d", folder_, version);
  std::filesystem::create_directories(place);
  const std::vector<std::string> special = {"<|end|>"};
  std::ofstream(place + "/tokenizer.json") << *ByteTokenizerJson(special);
}

void FakeWorld::DieAfter(int calls) {
  absl::MutexLock lock(&mu_);
  calls_left_ = calls;
}

void FakeWorld::Revive() {
  absl::MutexLock lock(&mu_);
  calls_left_ = -1;
  dead_ = false;
}

bool FakeWorld::RollTrainerBack() {
  absl::MutexLock lock(&mu_);
  if (durable_ == static_cast<int64_t>(steps_.size())) return false;
  steps_.resize(static_cast<size_t>(durable_));
  PublishNow();
  served_ = published_.back().version.value();
  return true;
}

void FakeWorld::ServeOlderWeights() {
  absl::MutexLock lock(&mu_);
  PublishNow();
  --published_.back().step;
  served_ = published_.back().version.value();
}

void FakeWorld::PublishNow() {
  published_.push_back({.version = PolicyVersion(published_.back().version.value() + 1),
                        .step = static_cast<int64_t>(steps_.size())});
  WriteVersion(published_.back().version.value());
}

absl::Status FakeWorld::Enter() {
  absl::MutexLock lock(&mu_);
  if (calls_left_ == 0) dead_ = true;
  if (dead_) return absl::DataLossError("the orchestrator is dead");
  if (calls_left_ > 0) --calls_left_;
  if (TakeOne(unavailable)) return absl::UnavailableError("fake");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> FakeWorld::Tasks() {
  RETURN_IF_ERROR(Enter());
  return std::vector<std::string>{"one", "registers", "talk", "three", "two"};
}

absl::StatusOr<Prompt> FakeWorld::Reset(const Episode& episode) {
  RETURN_IF_ERROR(Enter());
  const bool heldout = episode.split == Split::kHeldout;
  if (heldout) ++heldout_resets_;
  const bool cursed = (episode.split == Split::kTrain && episode.index == cursed_prompt) ||
                      (heldout && episode.index == cursed_heldout);
  if (cursed || TakeOne(raised_resets)) return absl::InternalError("the prompt raised");
  if (TakeOne(hung_resets)) return absl::AbortedError("the worker was lost");
  Prompt prompt{.episode = episode, .text = absl::StrFormat("?%d:", episode.index)};
  if (episode.index % 2 == 0) prompt.tags = {kNeedsMemory};
  if (episode.task == "talk") prompt.max_turns = kTurns;
  return prompt;
}

absl::StatusOr<EnvTurn> FakeWorld::Step(const Episode& episode, const std::string& response) {
  RETURN_IF_ERROR(Enter());
  if (TakeOne(raised)) return absl::InternalError("the task raised");
  EnvTurn turn{.episode = episode};
  turn.episode.state += response + ";";
  turn.done = std::count(turn.episode.state.begin(), turn.episode.state.end(), ';') == kTurns;
  const int longer = long_observations ? response.back() - '0' : 0;
  if (!turn.done) turn.messages = {{"user", std::string(1 + longer, '>')}};
  return turn;
}

// "<version>.<sample>": the reward rises with the version and differs within a group.
absl::StatusOr<Verdict> FakeWorld::Score(const Episode& episode, const std::string& text) {
  RETURN_IF_ERROR(Enter());
  std::string response = text;
  if (episode.task == "talk") {
    response = episode.state.substr(0, episode.state.size() - 1);
    response = response.substr(response.rfind(';') + 1);
  }
  if (TakeOne(unjudged)) return Verdict{rl::Outcome::kTaskFailed, 0, "no judge", {}};
  double value = 0;
  if (!absl::SimpleAtod(response, &value)) return absl::InvalidArgumentError(response);
  if (episode.split == Split::kTrain && episode.index < dull_below) value = 1;
  return Verdict{rl::Outcome::kOk, std::min(1.0, value / 20), "as told", {{"v", value}}};
}

absl::StatusOr<std::string> FakeWorld::Demonstrate(const Episode& episode, double noise) {
  RETURN_IF_ERROR(Enter());
  return absl::StrFormat("demo %d %g$", episode.index, noise);
}

absl::StatusOr<ModelFacts> FakeWorld::Describe() {
  RETURN_IF_ERROR(Enter());
  return ModelFacts{.layers = 1,
                    .kv_heads = 1,
                    .max_position = 512,
                    .stop_ids = {256},
                    .version = PolicyVersion(1)};
}

absl::StatusOr<std::vector<Sample>> FakeWorld::Generate(const GenerateCall& call) {
  RETURN_IF_ERROR(Enter());
  if (before_generate) before_generate();
  absl::MutexLock lock(&mu_);
  if (call.min_version.has_value() && call.min_version->value() > served_) {
    return absl::FailedPreconditionError("older weights");
  }
  if (refuse_begun && !call.begun.empty()) return absl::InvalidArgumentError("begun[0]: no");
  const bool old = keep_old_weights && call.request_id.rfind("g0", 0) == 0;  // of a group
  std::vector<Sample> samples;
  for (int32_t i = 0; i < call.n; ++i) {
    Sample sample{.sample = call.first_sample + i};
    if (TakeOne(lost_samples)) {
      sample.status = absl::UnavailableError("lost");
      sample.outcome = rl::Outcome::kInfraFailed;
    } else {
      sample.text = absl::StrFormat("%d.%d", served_, sample.sample);
      sample.rollout = MakeRollout(call, sample.sample, sample.text, old ? 1 : served_);
      for (const rl::Rollout& begun : call.begun) {
        if (begun.sample != sample.sample) continue;
        GoOn(begun, served_, sample);
        ++continued_;
      }
      if (TakeOne(cut_samples)) Cut(sample);
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

absl::StatusOr<SessionRef> FakeWorld::CreateSession(const SessionCall& call) {
  RETURN_IF_ERROR(Enter());
  absl::MutexLock lock(&mu_);
  if (call.min_version.has_value() && call.min_version->value() > served_) {
    return absl::FailedPreconditionError("older weights");
  }
  if (refuse_begun && call.begun) return absl::InvalidArgumentError("begun.events: no");
  const std::string id = absl::StrFormat("s%d", ++made_sessions_);
  sessions_[id] = call.begun.value_or(Started(call.request_id, call.prompt, call.seed));
  continued_ += call.begun.has_value();
  return SessionRef{.id = id};
}

// What is said follows from the weights and the seed alone.
absl::StatusOr<Sample> FakeWorld::StepSession(const SessionStep& step) {
  RETURN_IF_ERROR(Enter());
  if (before_generate) before_generate();
  absl::MutexLock lock(&mu_);
  const bool later = !step.new_ids.empty();
  if (TakeOne(lost_sessions) || (later && TakeOne(lost_turns))) sessions_.erase(step.session.id);
  const auto found = sessions_.find(step.session.id);
  if (found == sessions_.end()) return absl::NotFoundError("no such session");
  rl::Rollout& rollout = found->second;
  if (step.expected_tokens != static_cast<int32_t>(rollout.tokens.size())) {
    return absl::FailedPreconditionError("expected_tokens differ");
  }
  Sample sample;
  if (TakeOne(lost_samples)) {
    sample.status = absl::UnavailableError("lost");
    sample.outcome = rl::Outcome::kInfraFailed;
    return sample;
  }
  const int64_t version = keep_old_weights ? 1 : served_;
  sample.text = absl::StrFormat("%d.%d", served_, rollout.seed % 10);
  Append(step.new_ids, rl::Origin::kInjected, version, rollout);
  Append(sample.text, rl::Origin::kSampled, version, rollout);
  rollout.greedy = step.sampling.temperature == 0;
  sample.rollout = rollout;
  if (later && TakeOne(cut_turns)) {
    Cut(sample);
  } else {
    ++said_;
  }
  return sample;
}

void FakeWorld::DeleteSession(const SessionRef& session) {
  absl::MutexLock lock(&mu_);
  if (!dead_) sessions_.erase(session.id);
}

absl::Status FakeWorld::UpdateWeights(const Weights& weights) {
  RETURN_IF_ERROR(Enter());
  if (weights.version.value() == damaged) return absl::DataLossError("digests differ");
  absl::MutexLock lock(&mu_);
  served_ = std::max(served_, weights.version.value());
  return absl::OkStatus();
}

absl::Status FakeWorld::AbortAll(const std::string&) {
  absl::MutexLock lock(&mu_);
  sessions_.clear();
  return absl::OkStatus();
}

absl::StatusOr<TrainerStatus> FakeWorld::Status() {
  RETURN_IF_ERROR(Enter());
  absl::MutexLock lock(&mu_);
  return TrainerStatus{.step = static_cast<int64_t>(steps_.size()),
                       .durable_step = durable_,
                       .published = published_,
                       .serving = true};
}

int64_t FakeWorld::StepOf(int64_t version) const {
  for (const Weights& weights : published_) {
    if (weights.version.value() == version) return weights.step;
  }
  return -1;
}

absl::StatusOr<TrainResult> FakeWorld::Train(const TrainBatch& batch) {
  RETURN_IF_ERROR(Enter());
  absl::MutexLock lock(&mu_);
  TrainResult result{.loss = 1.0 / static_cast<double>(batch.step), .loss_tokens = 10};
  const auto now = static_cast<int64_t>(steps_.size());
  if (batch.step <= now) {
    if (steps_[static_cast<size_t>(batch.step - 1)].id != batch.id) {
      return absl::FailedPreconditionError("another batch at a trained step");
    }
    result.already_trained = true;
    return result;
  }
  if (batch.step != now + 1) return absl::FailedPreconditionError("a gap");
  TrainedStep step{.id = batch.id, .rate = batch.learning_rate};
  std::string content = BatchToProto(batch).SerializeAsString();
  for (const RlItem& item : batch.rl) {
    step.groups.insert(item.group_id);
    step.staleness.push_back(now - StepOf(item.rollout.spans.front().version.value()));
  }
  const auto [before, fresh] = contents_.emplace(batch.step, content);
  if (!fresh && before->second != content) ++changed_batches_;
  steps_.push_back(std::move(step));
  if (batch.step % checkpoint_every == 0) durable_ = batch.step;
  if (!batch.rl.empty()) result.mismatch = {{0, 30, 1e-6, 1e-3}, {1, 10, 5e-6, 2e-3}};
  for (const RlItem& item : batch.rl) result.replayed.push_back(ReplayedOf(item.rollout));
  if (batch.step == unheard) {
    unheard = 0;
    return absl::UnavailableError("the answer was lost");
  }
  return result;
}

absl::StatusOr<Weights> FakeWorld::Publish(int64_t step) {
  RETURN_IF_ERROR(Enter());
  absl::MutexLock lock(&mu_);
  if (step != static_cast<int64_t>(steps_.size())) {
    return absl::FailedPreconditionError("not the current step");
  }
  const Weights& newest = published_.back();
  if (newest.step != step || newest.version.value() == damaged) PublishNow();
  return published_.back();
}

absl::StatusOr<int64_t> FakeWorld::SaveCheckpoint() {
  RETURN_IF_ERROR(Enter());
  absl::MutexLock lock(&mu_);
  durable_ = static_cast<int64_t>(steps_.size());
  return durable_;
}

std::vector<std::string> FakeWorld::TrainedBatches() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> ids;
  for (const TrainedStep& step : steps_) ids.push_back(step.id);
  return ids;
}

std::map<int64_t, std::string> FakeWorld::contents() const {
  absl::MutexLock lock(&mu_);
  return contents_;
}

std::multiset<int64_t> FakeWorld::trained_prompts() const {
  absl::MutexLock lock(&mu_);
  std::multiset<int64_t> prompts;
  for (const TrainedStep& step : steps_) {
    for (const std::string& group : step.groups) prompts.insert(std::stoll(group.substr(1)));
  }
  return prompts;
}

std::vector<int64_t> FakeWorld::staleness() const {
  absl::MutexLock lock(&mu_);
  std::vector<int64_t> all;
  for (const TrainedStep& step : steps_)
    all.insert(all.end(), step.staleness.begin(), step.staleness.end());
  return all;
}

size_t FakeWorld::open_sessions() const {
  absl::MutexLock lock(&mu_);
  return sessions_.size();
}

std::vector<double> FakeWorld::rates() const {
  absl::MutexLock lock(&mu_);
  std::vector<double> rates;
  for (const TrainedStep& step : steps_) rates.push_back(step.rate);
  return rates;
}

}  // namespace palimpsest::orchestrator
