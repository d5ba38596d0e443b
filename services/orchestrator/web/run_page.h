#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/http/message.h"
#include "common/tokenizer/tokenizer.h"
#include "services/orchestrator/core/progress.h"
#include "services/orchestrator/engine/ledger.h"

namespace palimpsest::orchestrator {

// What the process that makes a run knows beyond the ledger. Any thread.
struct LiveRun {
  std::function<Progress()> progress;
  std::function<std::vector<PeerFacts>()> peers;
};

// The web page of a run: its files, and the JSON that they ask for. It only looks: the ledger is
// read by a connection of its own, which writers do not wait for. Any thread.
//
//   /                            the page; /page.css and so on
//   /api/progress
//   /api/curves?points=600       2 to 5000
//   /api/fleet
//   /api/rollouts?step=&group=&before=&limit=50    newest first, `limit` at most 200;
//                                `next` of the answer is `before` of the next page, 0 = the end
//   /api/rollouts/ID
//   /api/rollouts/ID/events/N    which positions each head kept, N from 0
//
// Refusals are {"error": ..} with 400 for a parameter that is not known or out of range, 404, 503.
class RunPage {
 public:
  // `folder` of the run holds its ledger; `live` is absent for a run that nobody makes now. `codec`
  // and `clock` outlive the page.
  static absl::StatusOr<std::unique_ptr<RunPage>> Open(const std::string& folder,
                                                       const RolloutCodec& codec, Clock& clock,
                                                       std::optional<LiveRun> live);

  HttpAnswer Answer(const HttpRequest& request) const;

 private:
  RunPage(std::string folder, const RolloutCodec& codec, Clock& clock, std::optional<LiveRun> live,
          std::unique_ptr<const Ledger> ledger)
      : folder_(std::move(folder)),
        codec_(codec),
        clock_(clock),
        live_(std::move(live)),
        ledger_(std::move(ledger)) {}

  using Body = absl::StatusOr<std::string>;
  Body Api(const HttpRequest& request) const;
  Body ProgressOf() const;
  Body Curves(const HttpRequest& request) const;
  Body Fleet() const;
  Body List(const HttpRequest& request) const;
  Body One(const std::string& rest) const;
  absl::StatusOr<Progress> Remembered() const;
  absl::StatusOr<std::optional<StepRow>> TrainedIn(const RolloutRow& row) const;
  std::vector<std::string> Pieces(const std::vector<int32_t>& tokens) const;
  std::shared_ptr<const Tokenizer> FindTokenizer() const;

  const std::string folder_;
  const RolloutCodec& codec_;
  Clock& clock_;
  const std::optional<LiveRun> live_;
  const std::unique_ptr<const Ledger> ledger_;
  mutable absl::Mutex mu_;
  mutable std::shared_ptr<const Tokenizer> tokenizer_ ABSL_GUARDED_BY(mu_);  // once it was found
};

}  // namespace palimpsest::orchestrator
