#include "services/inference/server/generation.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"

namespace palimpsest::inference {

v1::Alternatives ToProto(const Alternatives& top) {
  v1::Alternatives proto;
  proto.mutable_ids()->Assign(top.ids.begin(), top.ids.end());
  proto.mutable_logprobs()->Assign(top.logprobs.begin(), top.logprobs.end());
  return proto;
}

namespace {

v1::GenerateResponse ToProto(const TokenChunk& chunk) {
  v1::GenerateResponse update;
  v1::TokenChunk& tokens = *update.mutable_tokens();
  tokens.set_sample(chunk.sample);
  tokens.set_begin(chunk.begin);
  tokens.mutable_ids()->Assign(chunk.ids.begin(), chunk.ids.end());
  tokens.mutable_logprobs()->Assign(chunk.logprobs.begin(), chunk.logprobs.end());
  for (const rl::Origin origin : chunk.origins) tokens.add_origins(wire::ToProto(origin));
  tokens.set_text(chunk.text);
  tokens.set_policy_version(chunk.version.value());
  tokens.set_kv_epoch(chunk.kv_epoch);
  for (const Alternatives& top : chunk.top) *tokens.add_top_logprobs() = ToProto(top);
  return update;
}

// Is `next` what follows `last` at once, made by the same weights?
bool Continues(const v1::TokenChunk& last, const v1::TokenChunk& next) {
  return last.begin() + last.ids_size() == next.begin() &&
         last.policy_version() == next.policy_version() && last.kv_epoch() == next.kv_epoch();
}

void Append(const v1::TokenChunk& next, v1::TokenChunk& last) {
  last.mutable_ids()->MergeFrom(next.ids());
  last.mutable_logprobs()->MergeFrom(next.logprobs());
  last.mutable_origins()->MergeFrom(next.origins());
  last.mutable_text()->append(next.text());
  last.mutable_top_logprobs()->MergeFrom(next.top_logprobs());
}

}  // namespace

int32_t SampleCount(const v1::GenerateRequest& request) {
  return request.n() == 0 ? 1 : request.n();
}

Generation::Generation(const v1::GenerateRequest& request, Hooks hooks)
    : request_(std::make_unique<v1::GenerateRequest>(request)),
      id_(request.request_id()),
      count_(SampleCount(request)),
      first_sample_(request.first_sample()),
      stream_tokens_(request.stream_tokens()),
      hooks_(std::move(hooks)) {}

Generation::Generation(const v1::StepSessionRequest& request, Hooks hooks)
    : request_(std::make_unique<v1::StepSessionRequest>(request)),
      id_(request.request_id()),
      count_(1),
      first_sample_(0),
      stream_tokens_(request.stream_tokens()),
      hooks_(std::move(hooks)) {}

absl::Status Generation::Attach(std::shared_ptr<GenerationReader> reader) {
  const absl::MutexLock lock(&mu_);
  if (refused_.has_value()) return *refused_;
  if (abandoned_) {
    return absl::UnavailableError(absl::StrFormat(
        "request_id=%s: nobody listened and it is being cancelled; ask again", id()));
  }
  if (readers_.size() >= kMaxReaders) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("request_id=%s: %d clients listen already", id(), kMaxReaders));
  }
  if (accepted_ != nullptr) CatchUp(*reader);
  if (accepted_ != nullptr && complete()) {
    reader->End(absl::OkStatus());
  } else {
    readers_.push_back(std::move(reader));
  }
  return absl::OkStatus();
}

void Generation::Detach(const GenerationReader* reader) {
  bool abandoned = false;
  {
    const absl::MutexLock lock(&mu_);
    std::erase_if(readers_, [reader](const auto& r) { return r.get() == reader; });
    abandoned = BecameAbandoned();
  }
  if (abandoned) hooks_.abandoned(*this);
}

void Generation::Accept(const std::vector<int32_t>& prompt, PolicyVersion version) {
  auto update = std::make_shared<v1::GenerateResponse>();
  v1::GenerationAccepted& accepted = *update->mutable_accepted();
  accepted.set_request_id(id());
  accepted.mutable_prompt_ids()->Assign(prompt.begin(), prompt.end());
  accepted.set_policy_version(version.value());
  bool ended = false, abandoned = false;
  {
    const absl::MutexLock lock(&mu_);
    accepted_ = std::move(update);
    if (samples_.empty()) samples_.resize(count_);
    for (const auto& reader : readers_) CatchUp(*reader);
    for (Sample& sample : samples_) {
      if (sample.end != nullptr) sample.stream = {};
    }
    ended = complete();
    if (ended) EndAll(absl::OkStatus());
    abandoned = BecameAbandoned();
  }
  if (ended) hooks_.ended(*this);
  if (abandoned) hooks_.abandoned(*this);
}

void Generation::Refuse(const absl::Status& status) {
  const absl::MutexLock lock(&mu_);
  refused_ = status;
  EndAll(status);
}

void Generation::OnTokens(TokenChunk chunk) {
  if (stream_tokens_) Stream(ToProto(chunk), chunk.sample);
}

void Generation::OnEvent(int32_t sample, const context::Event& event) {
  if (!stream_tokens_) return;
  v1::GenerateResponse update;
  update.mutable_compaction()->set_sample(sample);
  *update.mutable_compaction()->mutable_event() = wire::ToProto(event);
  Stream(std::move(update), sample);
}

void Generation::OnFinished(Finished finished) {
  v1::GenerateResponse update;
  v1::GenerationFinished& proto = *update.mutable_finished();
  proto.set_sample(finished.sample);
  *proto.mutable_rollout() = wire::ToProto(finished.rollout);
  proto.set_text(finished.text);
  if (finished.stop_string) proto.set_stop_string(*finished.stop_string);
  proto.mutable_prompt_logprobs()->Assign(finished.prompt_logprobs.begin(),
                                          finished.prompt_logprobs.end());
  for (const Alternatives& top : finished.prompt_top)
    *proto.add_prompt_top_logprobs() = ToProto(top);
  EndSample(std::move(update), finished.sample, false, rl::Outcome::kOk);
}

void Generation::OnFailure(Failure failure) {
  v1::GenerateResponse update;
  v1::GenerationError& proto = *update.mutable_error();
  proto.set_sample(failure.sample);
  proto.set_code(static_cast<int32_t>(failure.status.code()));
  proto.set_message(std::string(failure.status.message()));
  proto.set_retryable(failure.retryable);
  proto.set_outcome(wire::ToProto(failure.outcome));
  if (failure.partial) *proto.mutable_partial() = wire::ToProto(*failure.partial);
  EndSample(std::move(update), failure.sample, failure.retryable, failure.outcome);
}

bool Generation::replayable() const {
  const absl::MutexLock lock(&mu_);
  return accepted_ != nullptr && complete() && !retryable_ && !abandoned_;
}

int64_t Generation::bytes() const {
  const absl::MutexLock lock(&mu_);
  size_t sum = request_->ByteSizeLong();
  if (accepted_ != nullptr) sum += accepted_->ByteSizeLong();
  for (const Sample& sample : samples_) {
    if (sample.end != nullptr) sum += sample.end->ByteSizeLong();
    for (const v1::GenerateResponse& update : sample.stream) sum += update.ByteSizeLong();
  }
  return static_cast<int64_t>(sum);
}

// The engine may speak before Accept: it runs as soon as Submit has taken the request.
Generation::Sample& Generation::SampleAt(int32_t sample) {
  if (samples_.empty()) samples_.resize(count_);
  return samples_.at(sample - first_sample_);
}

void Generation::Keep(v1::GenerateResponse update, int32_t sample) {
  std::vector<v1::GenerateResponse>& stream = SampleAt(sample).stream;
  if (update.has_tokens() && !stream.empty() && stream.back().has_tokens() &&
      Continues(stream.back().tokens(), update.tokens())) {
    Append(update.tokens(), *stream.back().mutable_tokens());
  } else {
    stream.push_back(std::move(update));
  }
}

void Generation::CatchUp(GenerationReader& reader) const {
  reader.Send(accepted_, false);
  for (const Sample& sample : samples_) {
    for (const v1::GenerateResponse& update : sample.stream) {
      reader.Send(std::make_shared<v1::GenerateResponse>(update), false);
    }
    if (sample.end != nullptr) reader.Send(sample.end, false);
  }
}

void Generation::SendAll(const Update& update, bool bounded) {
  if (accepted_ == nullptr) return;
  std::erase_if(readers_, [&](const auto& reader) { return !reader->Send(update, bounded); });
}

void Generation::EndAll(const absl::Status& status) {
  for (const auto& reader : readers_) reader->End(status);
  readers_.clear();
}

bool Generation::BecameAbandoned() {
  if (accepted_ == nullptr || abandoned_ || complete() || !readers_.empty()) return false;
  abandoned_ = true;
  return true;
}

void Generation::Stream(v1::GenerateResponse update, int32_t sample) {
  bool abandoned = false;
  {
    const absl::MutexLock lock(&mu_);
    SendAll(std::make_shared<v1::GenerateResponse>(update), true);
    Keep(std::move(update), sample);
    abandoned = BecameAbandoned();
  }
  if (abandoned) hooks_.abandoned(*this);
}

void Generation::EndSample(v1::GenerateResponse update, int32_t sample, bool retryable,
                           rl::Outcome outcome) {
  const auto end = std::make_shared<v1::GenerateResponse>(std::move(update));
  bool ended = false, abandoned = false;
  hooks_.sample_ended(outcome);
  {
    const absl::MutexLock lock(&mu_);
    Sample& slot = SampleAt(sample);
    // Until Accept nobody has heard it.
    if (accepted_ != nullptr) slot.stream = {};
    slot.end = end;
    ++ended_;
    retryable_ |= retryable;
    SendAll(end, false);
    ended = accepted_ != nullptr && complete();
    if (ended) EndAll(absl::OkStatus());
    abandoned = BecameAbandoned();
  }
  if (ended) hooks_.ended(*this);
  if (abandoned) hooks_.abandoned(*this);
}

}  // namespace palimpsest::inference
