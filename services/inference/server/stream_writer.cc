#include "services/inference/server/stream_writer.h"

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"

namespace palimpsest::inference {

std::shared_ptr<StreamWriter> StreamWriter::Create(int bound, std::function<void()> too_slow) {
  std::shared_ptr<StreamWriter> writer(new StreamWriter(bound, std::move(too_slow)));
  const absl::MutexLock lock(&writer->mu_);
  writer->self_ = writer;
  return writer;
}

void StreamWriter::Listen(std::shared_ptr<Generation> generation) {
  bool cancelled = false;
  {
    const absl::MutexLock lock(&mu_);
    cancelled = cancelled_;
    if (!cancelled) generation_ = generation;
  }
  if (cancelled) generation->Detach(this);
}

bool StreamWriter::Send(Update update, bool bounded) {
  const absl::MutexLock lock(&mu_);
  if (end_.has_value()) return false;
  if (bounded && behind_ >= bound_) {
    queue_.clear();
    end_ = absl::ResourceExhaustedError(absl::StrFormat(
        "the reader is %d streamed messages behind, inference.reader_queue=%d", behind_, bound_));
    too_slow_();
    Pump();
    return false;
  }
  behind_ += bounded ? 1 : 0;
  queue_.push_back({std::move(update), bounded});
  Pump();
  return true;
}

void StreamWriter::End(const absl::Status& status) {
  const absl::MutexLock lock(&mu_);
  if (!end_.has_value()) end_ = status;
  Pump();
}

void StreamWriter::OnWriteDone(bool ok) {
  const absl::MutexLock lock(&mu_);
  writing_.reset();
  if (!ok) {
    queue_.clear();
    end_ = absl::CancelledError("the client is gone");
  }
  Pump();
}

void StreamWriter::OnCancel() {
  std::shared_ptr<Generation> generation;
  {
    const absl::MutexLock lock(&mu_);
    cancelled_ = true;
    generation = std::move(generation_);
    queue_.clear();
    end_ = absl::CancelledError("cancelled by the client, or its deadline has passed");
    Pump();
  }
  if (generation != nullptr) generation->Detach(this);
}

void StreamWriter::OnDone() {
  std::shared_ptr<StreamWriter> self;
  std::shared_ptr<Generation> generation;
  const absl::MutexLock lock(&mu_);
  self = std::move(self_);
  generation = std::move(generation_);
}

// One write at a time; the status goes out after the last one.
void StreamWriter::Pump() {
  if (finished_ || writing_ != nullptr) return;
  if (!queue_.empty()) {
    writing_ = std::move(queue_.front().update);
    behind_ -= queue_.front().bounded ? 1 : 0;
    queue_.pop_front();
    StartWrite(writing_.get());
  } else if (end_.has_value()) {
    finished_ = true;
    Finish(ToGrpc(*end_));
  }
}

}  // namespace palimpsest::inference
