#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "palimpsest/v1/inference.pb.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

v1::Alternatives ToProto(const Alternatives& top);

using Update = std::shared_ptr<const v1::GenerateResponse>;

class Generation;

// One client that listens to a generation. Called under the generation's lock: neither blocks nor
// calls back.
class GenerationReader {
 public:
  virtual ~GenerationReader() = default;
  // What it hears, to leave it by Detach: not called under the lock, and before what is submitted
  // anew says anything.
  virtual void Listen(std::shared_ptr<Generation> generation) = 0;
  // `bounded`: counts against the reader's bound. False: the reader is gone, nothing more for it.
  virtual bool Send(Update update, bool bounded) = 0;
  virtual void End(const absl::Status& status) = 0;  // after what was sent
};

// One request's way through the engine, and all who listen to it. What the engine says is kept in
// short form (chunks of a running sample merged, only the end of an ended one), so that a reader
// who comes late gets: accepted, what there is of each sample, then the rest live. Any thread.
class Generation final : public GenerationSink {
 public:
  struct Hooks {                                 // called without a lock
    std::function<void(Generation&)> ended;      // every sample has ended
    std::function<void(Generation&)> abandoned;  // accepted, not ended, nobody listens: cancel it
    std::function<void(rl::Outcome)> sample_ended;
  };
  static constexpr int kMaxReaders = 16;

  Generation(const v1::GenerateRequest& request, Hooks hooks);
  Generation(const v1::StepSessionRequest& request, Hooks hooks);  // one sample, number 0

  const google::protobuf::Message& request() const { return *request_; }
  const std::string& id() const { return id_; }

  // UNAVAILABLE: abandoned, its cancellation is under way. RESOURCE_EXHAUSTED: kMaxReaders.
  absl::Status Attach(std::shared_ptr<GenerationReader> reader);
  void Detach(const GenerationReader* reader);

  // Exactly one of the two, by who created it. Until then nobody hears anything.
  void Accept(const std::vector<int32_t>& prompt, PolicyVersion version);
  void Refuse(const absl::Status& status);

  void OnTokens(TokenChunk chunk) override;
  void OnEvent(int32_t sample, const context::Event& event) override;
  void OnFinished(Finished finished) override;
  void OnFailure(Failure failure) override;

  // May a repeated request get these results? Not if it was abandoned or may succeed later.
  bool replayable() const;
  int64_t bytes() const;  // of what is kept

 private:
  struct Sample {
    std::vector<v1::GenerateResponse> stream;  // of a running or unheard one; chunks are merged
    Update end;
  };

  Sample& SampleAt(int32_t sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Keep(v1::GenerateResponse update, int32_t sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CatchUp(GenerationReader& reader) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SendAll(const Update& update, bool bounded) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndAll(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool complete() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return ended_ == samples_.size(); }
  // True once: nobody is left of an accepted generation that goes on.
  bool BecameAbandoned() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Stream(v1::GenerateResponse update, int32_t sample);
  void EndSample(v1::GenerateResponse update, int32_t sample, bool retryable, rl::Outcome outcome);

  const std::unique_ptr<const google::protobuf::Message> request_;
  const std::string id_;
  const int32_t count_, first_sample_;
  const bool stream_tokens_;
  const Hooks hooks_;

  mutable absl::Mutex mu_;
  std::vector<std::shared_ptr<GenerationReader>> readers_ ABSL_GUARDED_BY(mu_);
  Update accepted_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> refused_ ABSL_GUARDED_BY(mu_);
  std::vector<Sample> samples_ ABSL_GUARDED_BY(mu_);  // [n], from first_sample
  size_t ended_ ABSL_GUARDED_BY(mu_) = 0;
  bool retryable_ ABSL_GUARDED_BY(mu_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mu_) = false;
};

// n of a request: 0 means 1.
int32_t SampleCount(const v1::GenerateRequest& request);

}  // namespace palimpsest::inference
