#include "tests/integration/soak/clients.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"

namespace palimpsest::inference {
namespace {

constexpr int64_t kLongestSession = 150;  // tokens

// Counts the last words of the samples of one request; goes with the engine's last hold on it.
class LastWords final : public GenerationSink {
 public:
  LastWords(Book& book, int samples, bool of_one_era)
      : book_(book), left_(samples), era_(of_one_era ? book.era() : -1) {}
  ~LastWords() override {
    if (left_ != 0) book_.Fault(absl::StrFormat("%d samples without a last word", left_));
  }
  void OnTokens(TokenChunk) override {}
  void OnEvent(int32_t, const context::Event&) override {}
  void OnFinished(Finished f) override {
    book_.Count("finished");
    book_.Offer(f.rollout, era_);
    End();
  }
  void OnFailure(Failure f) override {
    book_.Count(absl::IsDeadlineExceeded(f.status) ? "deadlines" : "cancelled");
    const bool asked = absl::IsCancelled(f.status) || absl::IsDeadlineExceeded(f.status) ||
                       absl::IsInvalidArgument(f.status);  // a window that an event may not have
    if (!asked) book_.Fault(f.status.ToString());
    End();
  }

 private:
  void End() {
    if (--left_ < 0) book_.Fault("a sample with two last words");
    book_.Ended();
  }
  Book& book_;
  int left_;
  const int64_t era_;  // -1: of more than one
};

}  // namespace

void Book::Count(const std::string& what, int64_t n) {
  absl::MutexLock lock(&mu_);
  counts_[what] += n;
}

void Book::Fault(const std::string& what) {
  absl::MutexLock lock(&mu_);
  if (faults_.size() < 20) faults_.push_back(what);
}

void Book::Began(int samples) {
  absl::MutexLock lock(&mu_);
  in_flight_ += samples;
}

void Book::Ended() {
  absl::MutexLock lock(&mu_);
  --in_flight_;
}

void Book::NewEra() {
  absl::MutexLock lock(&mu_);
  ++era_;
  offered_.clear();
}

int64_t Book::era() const {
  absl::MutexLock lock(&mu_);
  return era_;
}

void Book::Offer(const rl::Rollout& rollout, int64_t era) {
  absl::MutexLock lock(&mu_);
  if (era == era_ && seen_++ % 50 == 0 && offered_.size() < 100) offered_.push_back(rollout);
}

std::vector<rl::Rollout> Book::TakeOffered() {
  absl::MutexLock lock(&mu_);
  return std::exchange(offered_, {});
}

void Book::WaitUntilFewerThan(int samples) {
  const auto few = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return in_flight_ < samples; };
  absl::MutexLock lock(&mu_);
  if (mu_.AwaitWithTimeout(absl::Condition(&few), absl::Minutes(1))) return;
  faults_.push_back(
      absl::StrFormat("%d samples in flight, none ended within a minute", in_flight_));
}

int64_t Book::Of(const std::string& what) const {
  absl::MutexLock lock(&mu_);
  const auto it = counts_.find(what);
  return it == counts_.end() ? 0 : it->second;
}

std::map<std::string, int64_t> Book::counts() const {
  absl::MutexLock lock(&mu_);
  return counts_;
}

std::vector<std::string> Book::faults() const {
  absl::MutexLock lock(&mu_);
  return faults_;
}

// One of eight beginnings of a page or three, and a tail of its own.
std::vector<int32_t> Clients::Words(int64_t n) {
  std::vector<int32_t> ids;
  const int64_t common = random_.Below(8);
  for (int64_t i = 0; i < n; ++i) {
    const bool begins = i < 16 + 16 * (common % 3);
    ids.push_back(
        static_cast<int32_t>((begins ? common * 29 + i * 7 : random_.Below(vocab_)) % vocab_));
  }
  return ids;
}

context::ContextPolicy Clients::Context() {
  context::ContextPolicy policy{.reference_tokens = 12};
  policy.method = static_cast<context::Method>(random_.Between(1, 3));
  policy.parameters.chooser = context::DefaultChooser(policy.method);
  policy.protect = 4;
  switch (random_.Below(4)) {
    case 0:
      return {};
    case 1:
      policy.trigger = context::Segments{.every = 16, .window = 12, .keep_ratio = 0.3};
      break;
    default:
      policy.trigger = context::KvBudget{
          .budget = 64, .window = 24, .keep_ratio = 0.3, .early = random_.Below(3) == 0 ? 0 : 0.6};
  }
  return policy;
}

void Clients::Submit(GenerationRequest r) {
  r.request_id = absl::StrFormat("r%d", asked_++);
  r.sampling.ignore_eos = random_.Below(2) == 0;
  r.sampling.seed = random_.Next64();
  r.priority = static_cast<int32_t>(random_.Between(-1, 1));
  if (random_.Below(12) == 0) {
    r.deadline = SystemClock().Now() + absl::Milliseconds(random_.Below(100));
  }
  book_.Began(r.n);
  auto sink = std::make_shared<LastWords>(book_, r.n, !r.step || of_this_era_.contains(r.step->id));
  const int n = r.n;
  const absl::Status status = engine_.Submit(std::move(r), sink);
  if (status.ok()) return book_.Count("accepted");
  if (absl::IsInternal(status)) book_.Fault(status.ToString());
  book_.Count("refused");
  for (int i = 0; i < n; ++i) sink->OnFailure({.status = absl::CancelledError("refused")});
  book_.Count("cancelled", -n);
}

void Clients::Generate() {
  GenerationRequest r{.client = absl::StrFormat("c%d", random_.Below(5)),
                      .prompt = Words(random_.Between(1, 60)),
                      .n = static_cast<int32_t>(random_.Between(1, 4))};
  r.context = Context();
  r.sampling.max_tokens = static_cast<int32_t>(random_.Between(1, 40));
  Submit(std::move(r));
}

void Clients::OpenSession() {
  SessionSpec spec{.request_id = absl::StrFormat("s%d", asked_),
                   .client = absl::StrFormat("c%d", random_.Below(5)),
                   .seed = random_.Next64(),
                   .prompt = Words(random_.Between(1, 40))};
  spec.context.reference_tokens = 12;
  if (random_.Below(2) == 0)
    spec.context.trigger = context::Turns{.n_protect_turns = 1, .keep_ratio = 0.3};
  else
    spec.context.trigger = context::Manual{.keep_ratio = 0.3};
  const auto info = engine_.sessions()->Create(std::move(spec));
  if (!info.ok()) return;
  of_this_era_.insert(info->id);
  book_.Count("sessions");
}

void Clients::StepOf(const SessionInfo& session) {
  GenerationRequest r;
  r.step = SessionStep{.id = session.id, .expected_tokens = session.tokens};
  r.sampling.max_tokens = static_cast<int32_t>(random_.Between(1, 20));
  if (random_.Below(6) == 0 && session.tokens > 60)
    r.step->compact =
        context::Range{44, 56};  // refused where turns decide or a block is in the way
  else
    r.prompt = Words(random_.Between(1, 8));
  Submit(std::move(r));
}

void Clients::Converse() {
  const std::vector<SessionInfo> open = engine_.sessions()->List("");
  if (open.size() < 4) return OpenSession();
  const SessionInfo& at = open[static_cast<size_t>(random_.Below(std::ssize(open)))];
  const int64_t what = random_.Below(16);
  if (what == 0 || at.tokens > kLongestSession) {
    engine_.sessions()->Delete(at.id);
    book_.Count("deleted");
  } else if (what == 1) {
    const auto forks =
        engine_.sessions()->Fork(absl::StrFormat("f%d", asked_), at.id, {random_.Next64()});
    if (forks.ok()) book_.Count("forks");
    if (forks.ok() && of_this_era_.contains(at.id)) of_this_era_.insert(forks->front().id);
  } else if (what == 2) {
    OpenSession();
  } else if (!at.busy) {
    StepOf(at);
  }
}

void Clients::Go() {
  const int64_t before = asked_;
  while (asked_ == before) random_.Below(4) == 0 ? Converse() : Generate();
  if (random_.Below(10) == 0)
    engine_.Cancel(absl::StrFormat("r%d", std::max<int64_t>(0, asked_ - random_.Between(1, 30))));
}

void Clients::NewEra() {
  book_.NewEra();
  of_this_era_.clear();
}

void Clients::DeleteAllSessions() {
  for (const SessionInfo& info : engine_.sessions()->List("")) engine_.sessions()->Delete(info.id);
}

}  // namespace palimpsest::inference
