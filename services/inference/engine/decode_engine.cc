#include "services/inference/engine/decode_engine.h"

#include <deque>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <random>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/model/borrowed_threads.h"
#include "services/inference/core/admission.h"
#include "services/inference/core/begun.h"
#include "services/inference/core/fair_order.h"
#include "services/inference/engine/running_batch.h"
#include "services/inference/engine/score.h"

namespace palimpsest::inference {
namespace {

// For the ids of sessions: a name, no draw.
uint64_t Nonce() {
  std::random_device entropy;
  return uint64_t{entropy()} << 32 | entropy();
}

// One thread decodes; callers hand over requests, flips and orders under `mu_` and wait for what
// they asked for. Sessions belong to that thread: whoever asks for one gives it an order.
class DecodeEngine final : public Engine, public Sessions {
 public:
  explicit DecodeEngine(EngineParts parts)
      : options_(std::move(parts.options)),
        model_(std::move(parts.model)),
        tokenizer_(std::move(parts.tokenizer)),
        clock_(options_.clock ? *options_.clock : SystemClock()),
        device_(std::move(parts.device)),
        sessions_(model_, options_.limits, clock_, Nonce()),
        decoder_(std::move(parts.decoder)),
        version_(options_.version),
        thread_([this] { Loop(); }) {}

  ~DecodeEngine() override {
    {
      absl::MutexLock lock(&mu_);
      stop_ = true;
    }
    thread_.join();
  }

  absl::Status Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) override {
    if (tokenizer_) RETURN_IF_ERROR(StopStrings::Create(request.sampling.stop_strings).status());
    if (request.step) {
      if (const auto& forced = request.step->forced) RETURN_IF_ERROR(device_->CheckForced(*forced));
      return SubmitStep(std::move(request), std::move(sink));
    }
    RETURN_IF_ERROR(CheckRequest(request, model_, options_.limits, tokenizer_ != nullptr));
    RETURN_IF_ERROR(CheckEvents(request.context, request.begun));
    absl::MutexLock lock(&mu_);
    RETURN_IF_ERROR(CheckQueue(request.n));
    Enqueue(std::move(request), std::move(sink));
    return absl::OkStatus();
  }

  Sessions* sessions() override { return options_.limits.max_sessions > 0 ? this : nullptr; }

  absl::StatusOr<SessionInfo> Create(SessionSpec spec) override {
    RETURN_IF_ERROR(CheckSession(spec, model_));
    RETURN_IF_ERROR(CheckEvents(spec.context, {}));
    if (spec.begun) RETURN_IF_ERROR(CheckEvents(spec.context, {&*spec.begun, 1}));
    return Ordered<absl::StatusOr<SessionInfo>>(
        [&](RunningBatch&) { return sessions_.Create(std::move(spec)); });
  }

  absl::StatusOr<std::vector<SessionInfo>> Fork(const std::string& request_id,
                                                const std::string& id,
                                                const std::vector<uint64_t>& seeds) override {
    return Ordered<absl::StatusOr<std::vector<SessionInfo>>>([&](RunningBatch& batch) {
      auto forks = sessions_.Fork(request_id, id, seeds);
      batch.KeepBound();
      return forks;
    });
  }

  std::vector<SessionInfo> List(const std::string& client) override {
    return *Ordered<absl::StatusOr<std::vector<SessionInfo>>>([&](RunningBatch&) {
      return absl::StatusOr<std::vector<SessionInfo>>(sessions_.List(client));
    });
  }

  bool Delete(const std::string& id) override {
    return Ordered<absl::StatusOr<bool>>([&](RunningBatch&) {
             mu_.AssertHeld();
             CancelWhere(
                 [&](const RequestState& s) { return s.request.step && s.request.step->id == id; },
                 absl::CancelledError("the session was deleted"));
             return absl::StatusOr<bool>(sessions_.Delete(id));
           })
        .value_or(false);
  }

  void Cancel(const std::string& request_id) override {
    absl::MutexLock lock(&mu_);
    CancelWhere([&](const RequestState& s) { return s.request.request_id == request_id; },
                absl::CancelledError("cancelled by the caller"));
  }

  int AbortAll(const std::string& client, const std::string& reason) override {
    absl::MutexLock lock(&mu_);
    return CancelWhere(
        [&](const RequestState& s) { return client.empty() || s.request.client == client; },
        absl::CancelledError("aborted: " + reason));
  }

  absl::StatusOr<ScoreResult> Score(const ScoreRequest& request) override {
    if (request.as_decoded && options_.device == "cuda") {
      RETURN_IF_ERROR(CheckScore(request, model_.vocab, model_.max_position));
      using Scored = absl::StatusOr<ScoreResult>;
      return Ordered<Scored>([&](RunningBatch& batch) -> Scored {
        mu_.AssertHeld();
        RETURN_IF_ERROR(lost_);
        return batch.Score(request, version_);
      });
    }
    const model::BorrowedThreads threads;
    std::shared_ptr<const model::Decoder> decoder;
    PolicyVersion version;
    {
      absl::MutexLock lock(&mu_);
      decoder = decoder_;
      version = version_;
    }
    return ScoreTokens(*decoder, version, request);
  }

  absl::StatusOr<UpdateResult> UpdateWeights(const std::string& folder, PolicyVersion version,
                                             WeightsMode mode) override {
    absl::MutexLock one_at_a_time(&update_mu_);
    if (version == this->version()) return UpdateResult{.version = version, .already_live = true};
    const absl::Time begin = clock_.Now();
    ASSIGN_OR_RETURN(std::shared_ptr<const model::Decoder> staged, LoadDecoder(folder, options_));
    if (!(staged->config() == decoder_->config())) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "%s/config.json is of another model than the one that is served", folder));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<StagedWeights> weights, device_->Stage(staged));
    const absl::Time loaded = clock_.Now();
    absl::MutexLock lock(&mu_);
    next_ = std::move(staged);
    next_weights_ = std::move(weights);
    next_version_ = version;
    next_mode_ = mode;
    const auto flipped = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return next_ == nullptr || stop_ || !lost_.ok();
    };
    mu_.Await(absl::Condition(&flipped));
    RETURN_IF_ERROR(lost_);
    if (next_ != nullptr)
      return absl::UnavailableError("the engine stopped before the weights were flipped");
    RETURN_IF_ERROR(flipped_);
    return UpdateResult{.version = version,
                        .load_seconds = absl::ToDoubleSeconds(loaded - begin),
                        .flip_seconds = absl::ToDoubleSeconds(clock_.Now() - loaded)};
  }

  void Pause() override {
    absl::MutexLock lock(&mu_);
    paused_ = true;
  }
  void Resume() override {
    absl::MutexLock lock(&mu_);
    paused_ = false;
  }

  void Drain(absl::Duration grace) override {
    const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return waiting_.empty() && active_.empty();
    };
    absl::MutexLock lock(&mu_);
    draining_ = true;
    paused_ = false;
    if (mu_.AwaitWithTimeout(absl::Condition(&idle), grace)) return;
    CancelWhere([](const RequestState&) { return true; },
                absl::CancelledError("the server is shutting down"));
    mu_.Await(absl::Condition(&idle));
  }

  PolicyVersion version() const override {
    absl::MutexLock lock(&mu_);
    return version_;
  }
  const ModelInfo& model() const override { return model_; }
  const Limits& limits() const override { return options_.limits; }
  Load load() const override {
    absl::MutexLock lock(&mu_);
    Load load = load_;
    load.queued = queued_;
    return load;
  }
  absl::Status lost() const override {
    absl::MutexLock lock(&mu_);
    return lost_;
  }

 private:
  // Done by the engine's thread between two steps, under `mu_`.
  using Order = std::function<void(RunningBatch&)>;

  template <class Result, class Do>
  Result Ordered(const Do& what) {
    Result result = absl::UnavailableError("the engine is stopping");
    bool done = false;
    absl::MutexLock lock(&mu_);
    if (ended_) return result;
    orders_.push_back([&](RunningBatch& batch) {
      try {
        result = what(batch);
      } catch (const std::bad_alloc& error) {  // a device has none for a fork's copy
        result = absl::ResourceExhaustedError(error.what());
      } catch (const std::exception& error) {
        result = absl::InternalError(error.what());
      }
      done = true;
    });
    mu_.Await(absl::Condition(&done));
    return result;
  }

  absl::Status SubmitStep(GenerationRequest request, std::shared_ptr<GenerationSink> sink) {
    return Ordered<absl::Status>([&](RunningBatch&) -> absl::Status {
      mu_.AssertHeld();
      RETURN_IF_ERROR(CheckQueue(1));
      RETURN_IF_ERROR(sessions_.Begin(request, tokenizer_ != nullptr));
      Enqueue(std::move(request), std::move(sink));
      return absl::OkStatus();
    });
  }

  // What the device cannot do is refused before anything happens.
  absl::Status CheckEvents(const context::ContextPolicy& policy,
                           std::span<const rl::Rollout> begun) const {
    RETURN_IF_ERROR(device_->CheckPolicy(policy));
    for (const rl::Rollout& log : begun) {
      for (const context::Event& e : log.events) RETURN_IF_ERROR(device_->CheckForced(e));
    }
    return absl::OkStatus();
  }

  absl::Status CheckQueue(int32_t samples) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (draining_) return absl::UnavailableError("the server is draining");
    RETURN_IF_ERROR(lost_);
    const int32_t most = options_.limits.max_queued;
    if (queued_ + samples <= most) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d samples asked for, room for %d of %d in the queue", samples, most - queued_, most));
  }

  void Enqueue(GenerationRequest request, std::shared_ptr<GenerationSink> sink)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    queued_ += request.n;
    auto state = std::make_shared<RequestState>();
    state->arrived = clock_.Now();
    state->request = std::move(request);
    state->sink = std::move(sink);
    const GenerationRequest& r = state->request;
    state->tag = fair_.Tag(r.client, Cost(r));
    waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), state, GoesFirst),
                    std::move(state));
  }

  double Cost(const GenerationRequest& r) const {
    return static_cast<double>(TokensAsked(r, model_.max_position));
  }

  // Higher priority first, then by fair shares, then the earlier.
  static bool GoesFirst(const std::shared_ptr<RequestState>& a,
                        const std::shared_ptr<RequestState>& b) {
    if (a->request.priority != b->request.priority)
      return a->request.priority > b->request.priority;
    return a->tag < b->tag;
  }

  // It ends without having been served: what its client asked for after it moves up.
  void LeaveQueue(const RequestState& gone) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const double cost = Cost(gone.request);
    fair_.Withdraw(gone.request.client, cost);
    for (const auto& s : waiting_) {
      if (s->request.client == gone.request.client && s->tag > gone.tag)
        s->tag = fair_.Advanced(s->tag, cost);
    }
  }

  template <class Which>
  int CancelWhere(const Which& which, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    int samples = 0;
    for (auto* list : {&waiting_, &active_}) {
      for (const auto& s : *list) {
        if (!which(*s) || s->cancelled) continue;
        s->cancel_status = status;
        s->cancelled = true;
        samples += s->request.n;
      }
    }
    return samples;
  }

  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    const auto cancelled = [](const auto& s) { return bool{s->cancelled}; };
    const bool cancels = std::any_of(waiting_.begin(), waiting_.end(), cancelled) ||
                         std::any_of(active_.begin(), active_.end(), cancelled);
    const bool runs = !paused_ && !(waiting_.empty() && active_.empty());
    return stop_ || FlipsNow() || cancels || !orders_.empty() || runs;
  }

  // New weights that wait for what runs do not wake a thread that is paused.
  bool FlipsNow() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return next_ != nullptr && lost_.ok() &&
           (next_mode_ != WeightsMode::kFinish || !paused_ || active_.empty());
  }

  void Loop() {
    model::UseThreads(options_.threads);
    std::optional<RunningBatch> batch;
    StartBatch(batch);
    while (true) {
      PolicyVersion version;
      bool paused;
      {
        absl::MutexLock lock(&mu_);
        // Idle sessions end in their time although nobody calls.
        const absl::Duration nap =
            sessions_.size() > 0 ? absl::Seconds(1) : absl::InfiniteDuration();
        mu_.AwaitWithTimeout(absl::Condition(this, &DecodeEngine::HasWork), nap);
        if (stop_) break;
        sessions_.DeleteIdle();
        CarryOut(*batch);
        Flip(batch);
        AdmitWaiting(*batch);
        version = version_;
        paused = paused_;
      }
      batch->Sweep();
      if (!paused && !batch->empty()) StepOrFail(batch, version);
      absl::MutexLock lock(&mu_);
      load_ = batch->load();
      std::erase_if(active_, [](const auto& s) { return s.use_count() == 1; });
    }
    EndAll(*batch);
  }

  void StartBatch(std::optional<RunningBatch>& batch) {
    sessions_.LoseAll();  // the pool goes with the batch, logs do not
    batch.emplace(model_, options_.limits, tokenizer_.get(), options_.observer, clock_, sessions_,
                  *device_);
  }

  // The tensor library throws (out of memory, a bug of ours): what was running is told so and ends,
  // the engine goes on with an empty batch, since a half-made step may have left rows without an
  // owner. A device that is lost takes along what waits.
  void StepOrFail(std::optional<RunningBatch>& batch, PolicyVersion version) {
    try {
      batch->Step(version);
    } catch (const std::exception& error) {
      absl::MutexLock lock(&mu_);
      EndRunning(absl::StrFormat("the step failed: %s", error.what()), batch).IgnoreError();
    }
  }

  // Returns what they were told.
  absl::Status EndRunning(const std::string& why, std::optional<RunningBatch>& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    lost_ = device_->Usable();
    const absl::Status told = lost_.ok() ? absl::InternalError(why) : lost_;
    const auto end = [&](const std::shared_ptr<RequestState>& s) {
      s->cancel_status = told;
      s->cancelled = true;
    };
    std::for_each(active_.begin(), active_.end(), end);
    if (!lost_.ok()) std::for_each(waiting_.begin(), waiting_.end(), end);
    batch->Sweep();
    StartBatch(batch);
    return told;
  }

  void CarryOut(RunningBatch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (; !orders_.empty(); orders_.pop_front()) orders_.front()(batch);
  }

  // What the device throws there ends what runs, as in a step; the old weights stay.
  void Flip(std::optional<RunningBatch>& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (next_ == nullptr || !lost_.ok()) return;
    if (next_mode_ == WeightsMode::kFinish && !batch->empty()) return;
    flipped_ = absl::OkStatus();
    try {
      batch->NewWeights(next_mode_);
      device_->Flip(std::move(next_weights_));
      decoder_ = next_;
      version_ = next_version_;
    } catch (const std::exception& error) {
      flipped_ =
          EndRunning(absl::StrFormat("new weights were not flipped: %s", error.what()), batch);
    }
    next_ = nullptr;
    next_weights_ = nullptr;
  }

  void SweepWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    std::vector<std::shared_ptr<RequestState>> gone;
    std::erase_if(waiting_, [&](const std::shared_ptr<RequestState>& s) {
      if (!s->cancelled && clock_.Now() < s->request.deadline) return false;
      gone.push_back(s);
      return true;
    });
    // The latest tag first: each lets those behind it move up.
    std::sort(gone.begin(), gone.end(),
              [](const auto& a, const auto& b) { return a->tag > b->tag; });
    for (const auto& s : gone) {
      const absl::Status status =
          s->cancelled ? s->cancel_status
                       : absl::DeadlineExceededError("the deadline passed in the queue");
      for (int32_t i = 0; i < s->request.n; ++i) {
        Failure told{.sample = s->request.first_sample + i,
                     .status = status,
                     .retryable = IsOfInfrastructure(status),
                     .outcome = IsOfInfrastructure(status) ? rl::Outcome::kInfraFailed
                                                           : rl::Outcome::kCancelled,
                     .partial = {}};
        if (const rl::Rollout* begun = FindBegun(s->request, told.sample)) told.partial = *begun;
        s->sink->OnFailure(std::move(told));
      }
      queued_ -= s->request.n;
      if (s->request.step) sessions_.Release(s->request.step->id);
      LeaveQueue(*s);
    }
    if (!gone.empty()) std::stable_sort(waiting_.begin(), waiting_.end(), GoesFirst);
  }

  void AdmitWaiting(RunningBatch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    SweepWaiting();
    if (paused_ || (next_ != nullptr && next_mode_ == WeightsMode::kFinish)) return;
    while (!waiting_.empty() && batch.MakeRoomFor(waiting_.front()->request)) {
      queued_ -= waiting_.front()->request.n;
      fair_.Served(waiting_.front()->tag);
      active_.push_back(waiting_.front());
      batch.Admit(std::move(waiting_.front()), version_);
      waiting_.pop_front();
    }
  }

  // The engine goes away: nobody is left without a last word.
  void EndAll(RunningBatch& batch) {
    absl::MutexLock lock(&mu_);
    CancelWhere([](const RequestState&) { return true; },
                absl::UnavailableError("the engine is stopping"));
    AdmitWaiting(batch);
    batch.Sweep();
    CarryOut(batch);
    sessions_.LoseAll();
    ended_ = true;
  }

  const EngineOptions options_;
  const ModelInfo model_;
  const std::unique_ptr<const Tokenizer> tokenizer_;
  Clock& clock_;
  absl::Mutex update_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  mutable absl::Mutex mu_;
  std::deque<std::shared_ptr<RequestState>> waiting_ ABSL_GUARDED_BY(mu_);
  std::deque<std::shared_ptr<RequestState>> active_
      ABSL_GUARDED_BY(mu_);  // in the batch; a lone reference is done
  // The device's weights are those of decoder_, which Score reads.
  const std::unique_ptr<StepDevice> device_;  // of the engine's thread, but for Stage
  SessionTable sessions_;                     // likewise
  FairOrder fair_ ABSL_GUARDED_BY(mu_);       // between clients of one priority
  std::deque<Order> orders_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const model::Decoder> decoder_, next_;
  std::unique_ptr<StagedWeights> next_weights_;  // of next_
  PolicyVersion version_, next_version_;
  WeightsMode next_mode_ = WeightsMode::kKeep;
  absl::Status flipped_ ABSL_GUARDED_BY(mu_);  // how it went with the last that were next_
  Load load_ ABSL_GUARDED_BY(mu_);
  int32_t queued_ ABSL_GUARDED_BY(mu_) = 0;
  bool paused_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status lost_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // no order is carried out any more
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> StartEngine(EngineParts parts) {
  return std::make_unique<DecodeEngine>(std::move(parts));
}

}  // namespace palimpsest::inference
