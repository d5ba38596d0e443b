#include "tools/eval/ask_all.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_format.h"

namespace palimpsest::tools::eval {
namespace {

class Round {
 public:
  Round(const Plan& plan, const AskLimits& limits, Asker& asker, AnswerBook& book, Clock& clock,
        const std::function<bool()>& stopping, const std::function<void(const Tally&)>& tell)
      : plan_(plan),
        limits_(limits),
        asker_(asker),
        book_(book),
        clock_(clock),
        stopping_(stopping),
        tell_(tell) {
    for (AnswerKey& key : KeysOf(plan)) {
      ++tally_.wanted;
      if (book.Has(key)) {
        ++tally_.before;
      } else {
        keys_.push_back(std::move(key));
      }
    }
  }

  absl::StatusOr<std::vector<Missing>> Run() {
    const size_t threads = std::min(keys_.size(), static_cast<size_t>(limits_.concurrency));
    std::vector<std::thread> workers;
    for (size_t i = 0; i < threads; ++i) workers.emplace_back([this] { Work(); });
    for (std::thread& worker : workers) worker.join();
    const absl::MutexLock lock(&mu_);
    RETURN_IF_ERROR(broken_);
    for (; next_ < keys_.size(); ++next_) missing_.push_back({keys_[next_], "was not asked"});
    std::sort(missing_.begin(), missing_.end(),
              [](const Missing& a, const Missing& b) { return a.key < b.key; });
    return missing_;
  }

 private:
  void Work() {
    while (const AnswerKey* key = Next()) Settle(*key, Persist(*key));
  }

  const AnswerKey* Next() {
    const bool stop = stopping_();
    const absl::MutexLock lock(&mu_);
    const bool over = stop || !broken_.ok() || in_a_row_ >= limits_.give_up_after;
    return over || next_ == keys_.size() ? nullptr : &keys_[next_++];
  }

  // Tries until there is an answer, a refusal, or nothing more to be hoped for.
  absl::StatusOr<Answer> Persist(const AnswerKey& key) {
    const Policy& policy = *std::find_if(plan_.policies.begin(), plan_.policies.end(),
                                         [&](const Policy& p) { return p.name == key.policy; });
    absl::Duration wait = limits_.first_wait;
    for (int attempt = 1;; ++attempt) {
      absl::StatusOr<Answer> answer = asker_.Ask(key, policy, attempt);
      if (answer.ok() || IsRefusal(answer.status())) return answer;
      Tell([](Tally& tally) { ++tally.failures; });
      if (attempt == limits_.tries || stopping_()) return answer;
      clock_.SleepFor(wait);
      wait = std::min(2 * wait, limits_.longest_wait);
    }
  }

  void Settle(const AnswerKey& key, const absl::StatusOr<Answer>& answer) {
    absl::Status broken = answer.ok() ? book_.Append(*answer) : answer.status();
    if (broken.ok()) {
      Tell([](Tally& tally) { ++tally.answered; });
      const absl::MutexLock lock(&mu_);
      in_a_row_ = 0;
      return;
    }
    const bool fatal = answer.ok() || IsRefusal(broken);  // a disk that is full, too
    {
      const absl::MutexLock lock(&mu_);
      if (fatal) {
        broken_.Update(absl::Status(
            broken.code(), absl::StrFormat("%s: %s", Text(key), std::string(broken.message()))));
        return;
      }
      ++in_a_row_;
      missing_.push_back({key, broken.ToString()});
    }
    Tell([](Tally& tally) { ++tally.missing; });
  }

  void Tell(const std::function<void(Tally&)>& change) {
    const absl::MutexLock lock(&mu_);
    change(tally_);
    tell_(tally_);
  }

  const Plan& plan_;
  const AskLimits& limits_;
  Asker& asker_;
  AnswerBook& book_;
  Clock& clock_;
  const std::function<bool()>& stopping_;
  const std::function<void(const Tally&)>& tell_;
  std::vector<AnswerKey> keys_;  // that the book lacks
  absl::Mutex mu_;
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;
  int in_a_row_ ABSL_GUARDED_BY(mu_) = 0;
  Tally tally_ ABSL_GUARDED_BY(mu_);
  std::vector<Missing> missing_ ABSL_GUARDED_BY(mu_);
  absl::Status broken_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

absl::StatusOr<std::vector<Missing>> AskAll(const Plan& plan, const AskLimits& limits, Asker& asker,
                                            AnswerBook& book, Clock& clock,
                                            const std::function<bool()>& stopping,
                                            const std::function<void(const Tally&)>& tell) {
  return Round(plan, limits, asker, book, clock, stopping, tell).Run();
}

}  // namespace palimpsest::tools::eval
