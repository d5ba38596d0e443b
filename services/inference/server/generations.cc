#include "services/inference/server/generations.h"

#include <google/protobuf/util/message_differencer.h>

#include "absl/strings/str_format.h"

namespace palimpsest::inference {
namespace {

constexpr absl::Duration kTick = absl::Seconds(1);
constexpr size_t kMaxDifference = 200;  // bytes of it in a message

// "modified: n: 2 -> 3"; empty: equal.
std::string FirstDifference(const google::protobuf::Message& was,
                            const google::protobuf::Message& is) {
  if (was.GetDescriptor() != is.GetDescriptor()) return "another call";
  std::string report;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  if (differencer.Compare(was, is)) return "";
  return report.substr(0, std::min(report.find('\n'), kMaxDifference));
}

}  // namespace

Generations::Generations(Options options, Clock& clock)
    : options_(std::move(options)), clock_(clock), thread_([this] { Run(); }) {}

Generations::~Generations() {
  {
    const absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

absl::StatusOr<Generations::Joined> Generations::Join(const v1::GenerateRequest& request) {
  return JoinOrMake(request);
}
absl::StatusOr<Generations::Joined> Generations::Join(const v1::StepSessionRequest& request) {
  return JoinOrMake(request);
}

template <class Request>
absl::StatusOr<Generations::Joined> Generations::JoinOrMake(const Request& request) {
  const absl::MutexLock lock(&mu_);
  Expire();
  if (const auto it = by_id_.find(request.request_id()); it != by_id_.end()) {
    const std::string difference = FirstDifference(it->second->request(), request);
    if (difference.empty()) return Joined{it->second, false};
    return absl::AlreadyExistsError(
        absl::StrFormat("request_id=%s belongs to a request with other content: %s",
                        request.request_id(), difference));
  }
  auto generation = std::make_shared<Generation>(
      request, Generation::Hooks{.ended = [this](Generation& g) { Ended(g); },
                                 .abandoned = [this](Generation& g) { Abandoned(g); },
                                 .sample_ended = options_.sample_ended});
  by_id_.emplace(request.request_id(), generation);
  return Joined{std::move(generation), true};
}

void Generations::Forget(const Generation& generation) {
  const absl::MutexLock lock(&mu_);
  Erase(generation);
}

int Generations::running() const {
  const absl::MutexLock lock(&mu_);
  return static_cast<int>(by_id_.size() - finished_.size());
}

int Generations::remembered() const {
  const absl::MutexLock lock(&mu_);
  return static_cast<int>(finished_.size());
}

void Generations::Ended(const Generation& generation) {
  const bool replayable = generation.replayable();
  const int64_t bytes = generation.bytes();
  const absl::MutexLock lock(&mu_);
  if (!replayable || bytes > options_.remember_bytes) return Erase(generation);
  finished_.push_back({generation.id(), &generation, clock_.Now() + options_.remember, bytes});
  finished_bytes_ += bytes;
  Expire();
}

void Generations::Abandoned(const Generation& generation) {
  const absl::MutexLock lock(&mu_);
  to_cancel_.push_back(generation.id());
}

void Generations::Erase(const Generation& generation) {
  const auto it = by_id_.find(generation.id());
  if (it != by_id_.end() && it->second.get() == &generation) by_id_.erase(it);
}

void Generations::Expire() {
  while (!finished_.empty() &&
         (finished_.front().expires <= clock_.Now() || finished_bytes_ > options_.remember_bytes)) {
    finished_bytes_ -= finished_.front().bytes;
    by_id_.erase(finished_.front().id);
    finished_.pop_front();
  }
}

void Generations::Run() {
  const auto woken = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return stopping_ || !to_cancel_.empty();
  };
  while (true) {
    std::deque<std::string> ids;
    {
      const absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&woken), kTick);
      if (stopping_) return;
      ids.swap(to_cancel_);
      Expire();
    }
    for (const std::string& id : ids) options_.cancel(id);
  }
}

}  // namespace palimpsest::inference
