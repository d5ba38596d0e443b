#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "palimpsest/v1/inference.pb.h"

namespace palimpsest::inference {

// What is said to one HTTP request, queued for the thread that writes its answer. Those who say it
// call from their own threads. A reader that falls `bound` streamed messages behind hears
// RESOURCE_EXHAUSTED next, as on gRPC.
class Inbox {
 public:
  using Update = std::shared_ptr<const v1::GenerateResponse>;
  struct Item {
    size_t prompt = 0;
    Update update;
  };
  // Either the next item, or how it ended, or neither: nothing came in time.
  struct Heard {
    std::optional<Item> item;
    std::optional<absl::Status> end;
  };

  // `too_slow` is called once if the reader is too slow; must not block.
  Inbox(int bound, std::function<void()> too_slow)
      : bound_(bound), too_slow_(std::move(too_slow)) {}

  // How what becomes of one prompt reaches the inbox, which outlives it. Any thread.
  class Feed {
   public:
    Feed(Inbox& inbox, size_t prompt) : inbox_(inbox), prompt_(prompt) {}

    // `bounded`: counts against the bound. False: nothing more is wanted.
    bool Put(Update update, bool bounded) {
      return inbox_.Put(prompt_, std::move(update), bounded);
    }
    void End(const absl::Status& status) { inbox_.End(status); }  // once, after what was put
    // How to cancel it; when that has returned, nobody calls the feed any more. Called by the
    // thread that adds prompts, before anything is put.
    void LeaveBy(std::function<void()> leave) { leave_ = std::move(leave); }

   private:
    friend class Inbox;
    Inbox& inbox_;
    const size_t prompt_;
    std::function<void()> leave_;
  };

  std::shared_ptr<Feed> AddPrompt();  // not after Leave
  // Nobody listens any more: what still runs for this request alone is cancelled.
  void Leave();

  // By the reading thread. OK is the end once all prompts have ended and all items were heard.
  Heard Next(absl::Duration wait);
  // How the first prompt ended that ended badly; a refusal is known when its submission returns.
  absl::Status failure() const;

 private:
  bool Put(size_t prompt, Update update, bool bounded);
  void End(const absl::Status& status);

  const int bound_;
  const std::function<void()> too_slow_;
  std::vector<std::shared_ptr<Feed>> feeds_;  // of the reading thread

  mutable absl::Mutex mu_;
  std::deque<std::pair<Item, bool>> queue_ ABSL_GUARDED_BY(mu_);  // bounded?
  int behind_ ABSL_GUARDED_BY(mu_) = 0;                           // bounded ones in queue_
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;                       // prompts that have not ended
  absl::Status failed_ ABSL_GUARDED_BY(mu_);                      // the first that ended badly
};

}  // namespace palimpsest::inference
