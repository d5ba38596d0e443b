#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "services/inference/server/generation.h"

namespace palimpsest::inference {

// What the generations of one HTTP request say, queued for the thread that writes its answer. The
// generations call from theirs. A reader that falls `bound` streamed messages behind hears
// RESOURCE_EXHAUSTED next, as on gRPC.
class Inbox {
 public:
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

  // How a generation reaches this inbox. Not after Leave.
  std::shared_ptr<GenerationReader> AddPrompt();
  // Nobody listens any more: what still runs for this request alone is cancelled.
  void Leave();

  // By the reading thread. OK is the end once all prompts have ended and all items were heard.
  Heard Next(absl::Duration wait);
  // How the first prompt ended that ended badly; a refusal is known when its submission returns.
  absl::Status failure() const;

 private:
  class Reader;

  bool Put(size_t prompt, Update update, bool bounded);
  void End(const absl::Status& status);

  const int bound_;
  const std::function<void()> too_slow_;
  std::vector<std::shared_ptr<Reader>> readers_;  // of the reading thread

  mutable absl::Mutex mu_;
  std::deque<std::pair<Item, bool>> queue_ ABSL_GUARDED_BY(mu_);  // bounded?
  int behind_ ABSL_GUARDED_BY(mu_) = 0;                           // bounded ones in queue_
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;                       // prompts that have not ended
  absl::Status failed_ ABSL_GUARDED_BY(mu_);                      // the first that ended badly
};

}  // namespace palimpsest::inference
