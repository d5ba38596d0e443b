#pragma once

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/tokenizer/tokenizer.h"
#include "palimpsest/v1/inference.pb.h"
#include "services/inference/http/inbox.h"

namespace palimpsest::inference {

// What a door stands before: the replica of its own process (local_upstream.h), or whatever speaks
// InferenceService at the other end of a channel (remote_upstream.h). Any thread.
class Upstream {
 public:
  struct Model {
    int64_t max_position = 0;    // positions are [0, max_position)
    int64_t policy_version = 0;  // of the live weights
  };
  virtual ~Upstream() = default;

  virtual absl::StatusOr<Model> model() const = 0;  // UNAVAILABLE: nothing is served yet
  // Names tokens; null: they are known by their ids alone.
  virtual std::shared_ptr<const Tokenizer> tokenizer() const = 0;
  // One prompt; what becomes of it comes to `feed`. Returns when it is accepted or refused, which
  // is told by the status or by the end of the feed.
  virtual absl::Status Generate(const v1::GenerateRequest& request, absl::Time deadline,
                                const std::shared_ptr<Inbox::Feed>& feed) = 0;
};

}  // namespace palimpsest::inference
