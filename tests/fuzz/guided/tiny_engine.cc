#include "tests/fuzz/guided/tiny_engine.h"

#include <set>

#include "absl/strings/str_format.h"
#include "common/context/log.h"
#include "common/wire/rollout.h"
#include "services/inference/engine/engine_factory.h"
#include "tests/fuzz/guided/target.h"

namespace palimpsest::fuzz {
namespace {

using namespace inference;

constexpr int kMostSteps = 20000;  // of all that one input asks for
const absl::Duration kPatience = absl::Seconds(20);

// The log explains itself, and whoever gets the rollout over the wire can read it.
void CheckRollout(const rl::Rollout& r) {
  const absl::Status log = context::CheckLog(TinyShape(), r.tokens, r.events);
  if (!log.ok()) Broken("the engine wrote a broken log: " + log.ToString());
  const auto again = wire::FromProto(wire::ToProto(r));
  if (!again.ok()) Broken("the wire refuses what the engine wrote: " + again.status().ToString());
  if (!(*again == r)) Broken("the wire changes what the engine wrote");
}

}  // namespace

void ExpectNoFault(const absl::Status& status, const char* where) {
  if (absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsDataLoss(status))
    Broken(absl::StrFormat("%s: %s", where, status.ToString()));
}

absl::Time TickingClock::Now() {
  absl::MutexLock lock(&mu_);
  return now_ += absl::Milliseconds(1);
}

void TickingClock::Move(absl::Duration d) {
  absl::MutexLock lock(&mu_);
  now_ += d;
}

// Of one request, on the engine's thread.
class TinyEngine::Listener final : public GenerationSink {
 public:
  Listener(TinyEngine& home, GenerationRequest request)
      : home_(home), request_(std::move(request)) {}
  void OnTokens(TokenChunk chunk) override {
    ExpectOpen(chunk.sample);
    if (chunk.ids.size() != chunk.logprobs.size() || chunk.ids.size() != chunk.origins.size())
      Broken("a chunk of arrays of several lengths");
  }
  void OnEvent(int32_t sample, const context::Event&) override { ExpectOpen(sample); }
  void OnFinished(Finished f) override {
    CheckRollout(f.rollout);
    absl::MutexLock lock(&home_.mu_);
    if (request_.step) home_.session_log_ = {request_.step->id, f.rollout};
    home_.finished_.push_back(std::move(f.rollout));
    End(f.sample);
  }
  void OnFailure(Failure f) override {
    ExpectNoFault(f.status, "a sample ended");
    if (f.partial) CheckRollout(*f.partial);
    absl::MutexLock lock(&home_.mu_);
    if (f.partial && !request_.step && !request_.sampling.prompt_logprobs) {
      home_.cut_ = request_;
      home_.cut_->first_sample = f.sample;
      home_.cut_->n = 1;
      home_.cut_->deadline = absl::InfiniteFuture();
      home_.cut_->begun = {*std::move(f.partial)};
    }
    End(f.sample);
  }

 private:
  void ExpectOpen(int32_t sample) const {
    if (sample < request_.first_sample || sample - request_.first_sample >= request_.n)
      Broken(absl::StrFormat("sample %d was not asked for", sample));
    if (ended_.contains(sample)) Broken("a word after a sample's last word");
  }
  void End(int32_t sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(home_.mu_) {
    ExpectOpen(sample);
    ended_.insert(sample);
    --home_.in_flight_;
  }
  TinyEngine& home_;
  const GenerationRequest request_;
  std::set<int32_t> ended_;
};

TinyEngine::TinyEngine(int64_t kv_pool_bytes) {
  auto engine = MakeEngine({.model_folder = TinyFolder(1),
                            .version = PolicyVersion(1),
                            .threads = 1,
                            .limits = {.max_running = 6,
                                       .max_queued = 24,
                                       .max_samples = 4,
                                       .kv_pool_bytes = kv_pool_bytes,
                                       .prefill_tokens = 16,
                                       .max_sessions = 5,
                                       .session_ttl = absl::Seconds(20),
                                       .check_pages = true},
                            .clock = &clock_,
                            .observer = {.step = [this](double, int) { OnStep(); }}});
  if (!engine.ok()) Broken(engine.status().ToString());
  engine_ = *std::move(engine);
  engine_->Pause();
}

TinyEngine::~TinyEngine() = default;

void TinyEngine::OnStep() {
  bool enough;
  {
    absl::MutexLock lock(&mu_);
    ++steps_;
    enough = --left_ <= 0;
  }
  if (enough) engine_->Pause();
}

absl::Status TinyEngine::Submit(GenerationRequest request) {
  auto listener = std::make_shared<Listener>(*this, request);
  const int n = request.step ? 1 : request.n;
  {
    absl::MutexLock lock(&mu_);
    in_flight_ += n;
  }
  const absl::Status status = engine_->Submit(std::move(request), std::move(listener));
  if (status.ok()) return status;
  ExpectNoFault(status, "a request was refused");
  absl::MutexLock lock(&mu_);
  in_flight_ -= n;
  return status;
}

void TinyEngine::UpdateWeights(int folder, PolicyVersion version, WeightsMode mode) {
  if (mode == WeightsMode::kFinish) {
    absl::MutexLock lock(&mu_);
    left_ = kMostSteps;
  }
  if (mode == WeightsMode::kFinish) engine_->Resume();
  const auto update = engine_->UpdateWeights(TinyFolder(folder), version, mode);
  if (!update.ok()) Broken("new weights: " + update.status().ToString());
  engine_->Pause();
}

void TinyEngine::Go(int steps) {
  int64_t before;
  {
    absl::MutexLock lock(&mu_);
    left_ = steps;
    before = steps_;
  }
  if (!frozen_) engine_->Resume();
  {
    absl::MutexLock lock(&mu_);
    const auto still = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return left_ <= 0 || in_flight_ == 0;
    };
    while (!mu_.AwaitWithTimeout(absl::Condition(&still), kPatience)) {
      if (steps_ == before) {
        Broken(absl::StrFormat("stuck: %d samples wait for their last words, no step is made",
                               in_flight_));
      }
      before = steps_;
    }
  }
  engine_->Pause();
  Settle();
}

// Twice carried out by the engine's thread, the second time after what the first one left.
void TinyEngine::Settle() {
  for (int i = 0; i < 2; ++i) engine_->sessions()->List("");
}

void TinyEngine::Finish() {
  Go(kMostSteps);
  for (const SessionInfo& session : engine_->sessions()->List("")) {
    if (session.busy) Broken("stuck: a session is busy, but nothing runs");
    engine_->sessions()->Delete(session.id);
  }
  Settle();
  const Load load = engine_->load();
  const int left = load.running + load.queued + load.preempted + load.sessions;
  absl::MutexLock lock(&mu_);
  if (in_flight_ != 0 || left != 0 || load.kv_bytes_free != engine_->limits().kv_pool_bytes) {
    Broken(
        absl::StrFormat("left behind: %d samples without a last word, %d running, %d queued, "
                        "%d preempted, %d sessions, %d of %d bytes free",
                        in_flight_, load.running, load.queued, load.preempted, load.sessions,
                        load.kv_bytes_free, engine_->limits().kv_pool_bytes));
  }
}

std::optional<GenerationRequest> TinyEngine::TakeCut() {
  absl::MutexLock lock(&mu_);
  return std::exchange(cut_, std::nullopt);
}

std::optional<TinyEngine::SessionLog> TinyEngine::TakeSessionLog() {
  absl::MutexLock lock(&mu_);
  return std::exchange(session_log_, std::nullopt);
}

std::vector<rl::Rollout> TinyEngine::TakeFinished() {
  absl::MutexLock lock(&mu_);
  return std::exchange(finished_, {});
}

}  // namespace palimpsest::fuzz
