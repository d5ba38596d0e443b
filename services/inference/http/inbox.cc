#include "services/inference/http/inbox.h"

#include "absl/strings/str_format.h"

namespace palimpsest::inference {

// Outlived by the inbox: Leave takes it out of its generation.
class Inbox::Reader final : public GenerationReader {
 public:
  Reader(Inbox& inbox, size_t prompt) : inbox_(inbox), prompt_(prompt) {}

  void Listen(std::shared_ptr<Generation> generation) override {
    generation_ = std::move(generation);
  }
  bool Send(Update update, bool bounded) override {
    return inbox_.Put(prompt_, std::move(update), bounded);
  }
  void End(const absl::Status& status) override { inbox_.End(status); }

  void Leave() {
    if (generation_ != nullptr) generation_->Detach(this);
    generation_.reset();
  }

 private:
  Inbox& inbox_;
  const size_t prompt_;
  std::shared_ptr<Generation> generation_;  // of the reading thread
};

std::shared_ptr<GenerationReader> Inbox::AddPrompt() {
  readers_.push_back(std::make_shared<Reader>(*this, readers_.size()));
  const absl::MutexLock lock(&mu_);
  ++running_;
  return readers_.back();
}

void Inbox::Leave() {
  for (const auto& reader : readers_) reader->Leave();
}

Inbox::Heard Inbox::Next(absl::Duration wait) {
  const auto something = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return !queue_.empty() || running_ == 0 || !failed_.ok();
  };
  const absl::MutexLock lock(&mu_);
  if (!mu_.AwaitWithTimeout(absl::Condition(&something), wait)) return {};
  if (!failed_.ok()) return {.item = {}, .end = failed_};
  if (queue_.empty()) return {.item = {}, .end = absl::OkStatus()};
  auto [item, bounded] = std::move(queue_.front());
  queue_.pop_front();
  behind_ -= bounded ? 1 : 0;
  return {.item = std::move(item), .end = {}};
}

absl::Status Inbox::failure() const {
  const absl::MutexLock lock(&mu_);
  return failed_;
}

bool Inbox::Put(size_t prompt, Update update, bool bounded) {
  const absl::MutexLock lock(&mu_);
  if (!failed_.ok()) return false;
  if (bounded && behind_ >= bound_) {
    failed_ = absl::ResourceExhaustedError(absl::StrFormat(
        "the reader is %d streamed messages behind, inference.reader_queue=%d", behind_, bound_));
    queue_.clear();
    too_slow_();
    return false;
  }
  behind_ += bounded ? 1 : 0;
  queue_.emplace_back(Item{prompt, std::move(update)}, bounded);
  return true;
}

void Inbox::End(const absl::Status& status) {
  const absl::MutexLock lock(&mu_);
  --running_;
  failed_.Update(status);
}

}  // namespace palimpsest::inference
