#include "services/inference/http/inbox.h"

#include "absl/strings/str_format.h"

namespace palimpsest::inference {

std::shared_ptr<Inbox::Feed> Inbox::AddPrompt() {
  feeds_.push_back(std::make_shared<Feed>(*this, feeds_.size()));
  const absl::MutexLock lock(&mu_);
  ++running_;
  return feeds_.back();
}

void Inbox::Leave() {
  for (const auto& feed : feeds_) {
    if (feed->leave_) feed->leave_();
    feed->leave_ = nullptr;
  }
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
        "the reader is %d streamed messages behind, reader_queue=%d", behind_, bound_));
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
