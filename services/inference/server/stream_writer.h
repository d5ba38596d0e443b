#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "services/inference/server/generation.h"

namespace palimpsest::inference {

// Writes one client's stream without a thread of its own: what a generation sends is queued, gRPC
// calls back when a message has gone out. A client that falls more than `bound` streamed messages
// behind is ended with RESOURCE_EXHAUSTED. Deletes itself when the call is over. Any thread.
class StreamWriter final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public GenerationReader {
 public:
  // `too_slow` is called once for a client that was ended for it; must not block.
  static std::shared_ptr<StreamWriter> Create(int bound, std::function<void()> too_slow);

  // What it listens to: left when the call is cancelled. At most once, before End.
  void Listen(std::shared_ptr<Generation> generation) override;

  bool Send(Update update, bool bounded) override;
  void End(const absl::Status& status) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Queued {
    Update update;
    bool bounded;
  };

  StreamWriter(int bound, std::function<void()> too_slow)
      : bound_(bound), too_slow_(std::move(too_slow)) {}
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int bound_;
  const std::function<void()> too_slow_;

  absl::Mutex mu_;
  std::shared_ptr<StreamWriter> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
  std::shared_ptr<Generation> generation_ ABSL_GUARDED_BY(mu_);
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mu_);
  int behind_ ABSL_GUARDED_BY(mu_) = 0;  // bounded ones in queue_
  Update writing_ ABSL_GUARDED_BY(mu_);  // gRPC reads it until OnWriteDone
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace palimpsest::inference
