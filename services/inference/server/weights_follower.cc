#include "services/inference/server/weights_follower.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/base/stopwatch.h"
#include "common/telemetry/log.h"
#include "services/inference/server/canary.h"

namespace palimpsest::inference {
namespace {

constexpr absl::Duration kLogEvery = absl::Seconds(10);

absl::Status Differs(const char* field, const std::string& announced, const std::string& found) {
  return absl::FailedPreconditionError(
      absl::StrFormat("weights.%s=%s: the manifest in the store says %s", field, announced, found));
}

std::string Text(const std::optional<PolicyVersion>& version) {
  return version.has_value() ? std::to_string(version->value()) : "none";
}

absl::Status Compare(const Announcement& announced, const weights::VersionInfo& info) {
  if (announced.source.has_value()) {
    const Announcement::Source& s = *announced.source;
    const weights::Manifest& m = info.manifest;
    if (s.run != m.run) return Differs("run", s.run, m.run);
    if (s.attempt != m.attempt) {
      return Differs("attempt", std::to_string(s.attempt), std::to_string(m.attempt));
    }
    if (s.source_step != m.source_step) {
      return Differs("source_step", std::to_string(s.source_step), std::to_string(m.source_step));
    }
    if (s.parent != m.parent) return Differs("parent_version", Text(s.parent), Text(m.parent));
  }
  if (announced.manifest_digest.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const weights::ManifestFile file,
                   weights::DigestFile(info.folder, weights::kManifestName));
  if (file.xxh3 == announced.manifest_digest) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("weights.manifest_digest=%s: the manifest has %s",
                                             announced.manifest_digest, file.xxh3));
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightsFollower>> WeightsFollower::Start(Options options,
                                                                        Serving& serving,
                                                                        Telemetry& telemetry,
                                                                        Clock& clock) {
  ASSIGN_OR_RETURN(auto reader,
                   weights::StoreReader::Open(
                       options.store, {.reader = options.reader, .lease = options.lease}, clock));
  return std::unique_ptr<WeightsFollower>(
      new WeightsFollower(std::move(options), std::move(reader), serving, telemetry, clock));
}

WeightsFollower::WeightsFollower(Options options, std::unique_ptr<weights::StoreReader> reader,
                                 Serving& serving, Telemetry& telemetry, Clock& clock)
    : options_(std::move(options)),
      reader_(std::move(reader)),
      serving_(serving),
      telemetry_(telemetry),
      clock_(clock),
      started_(clock.Now()),
      thread_([this] { Run(); }) {}

WeightsFollower::~WeightsFollower() {
  {
    const absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
  if (const absl::Status status = reader_->Release(); !status.ok()) {
    Log(Severity::kWarning, "lease not released", {{"status", status.ToString()}});
  }
}

absl::StatusOr<UpdateResult> WeightsFollower::Apply(const Announcement& announcement,
                                                    WeightsMode mode, absl::Time deadline) {
  const auto job = std::make_shared<Job>(Job{announcement, mode, std::nullopt});
  const auto answered = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return job->result.has_value() || stopping_;
  };
  const absl::MutexLock lock(&mu_);
  if (jobs_.size() >= kMaxJobs) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d announcements of weights wait already", kMaxJobs));
  }
  jobs_.push_back(job);
  mu_.AwaitWithDeadline(absl::Condition(&answered), deadline);
  if (job->result.has_value()) return *std::move(job->result);
  std::erase(jobs_, job);
  if (stopping_) return absl::UnavailableError("this replica is ending");
  return absl::DeadlineExceededError(
      absl::StrFormat("version %d is not live yet", announcement.version.value()));
}

bool WeightsFollower::Stopping() const {
  const absl::MutexLock lock(&mu_);
  return stopping_;
}

// Real time: an announcement must wake it.
std::shared_ptr<WeightsFollower::Job> WeightsFollower::NextJob(absl::Duration wait) {
  const auto woken = [this]()
                         ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stopping_ || !jobs_.empty(); };
  const absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(&woken), wait);
  if (stopping_ || jobs_.empty()) return nullptr;
  std::shared_ptr<Job> job = std::move(jobs_.front());
  jobs_.pop_front();
  return job;
}

void WeightsFollower::Run() {
  absl::Time next_poll = absl::InfinitePast();
  while (!Stopping()) {
    const absl::Duration wait = std::max(next_poll - clock_.Now(), absl::ZeroDuration());
    if (const std::shared_ptr<Job> job = NextJob(wait)) {
      auto result = Take(job->announcement, job->mode);
      // The store's word for "not there (yet)".
      if (absl::IsUnavailable(result.status())) {
        result = absl::NotFoundError(result.status().message());
      }
      const absl::MutexLock lock(&mu_);
      job->result = std::move(result);
    } else if (!Stopping() && clock_.Now() >= next_poll) {
      if (!Poll()) return;
      next_poll = clock_.Now() + options_.poll;
    }
  }
}

bool WeightsFollower::Poll() {
  if (WaitedTooLong()) return false;
  if (const absl::Status status = RenewLeaseIfDue(); !status.ok()) {
    telemetry_.WeightsFailed(status.code());
    Log(Severity::kWarning, "lease not renewed", {{"status", status.ToString()}});
    return true;  // without a lease nothing new is read
  }
  FollowNewest();
  return true;
}

bool WeightsFollower::WaitedTooLong() {
  if (serving_.engine() != nullptr) return false;
  const absl::Duration waited = clock_.Now() - started_;
  if (waited > options_.first_version_wait) {
    options_.gave_up(WhyNone());
    return true;
  }
  if (clock_.Now() - last_log_ >= kLogEvery) {
    last_log_ = clock_.Now();
    Log(Severity::kInfo, "waiting for the first weights",
        {{"store", options_.store}, {"seconds", absl::ToDoubleSeconds(waited)}});
  }
  return false;
}

absl::Status WeightsFollower::WhyNone() const {
  const std::string none =
      absl::StrFormat("no weights to serve in %s within first_version_wait=%s", options_.store,
                      absl::FormatDuration(options_.first_version_wait));
  if (failure_.ok()) return absl::DeadlineExceededError(none);
  return absl::Status(failure_.code(), absl::StrFormat("%s; version %d: %s", none, failing_.value(),
                                                       std::string(failure_.message())));
}

absl::Status WeightsFollower::RenewLeaseIfDue() {
  if (clock_.Now() - lease_renewed_ < options_.lease / 3) return absl::OkStatus();
  RETURN_IF_ERROR(reader_->RenewLease());
  lease_renewed_ = clock_.Now();
  return absl::OkStatus();
}

void WeightsFollower::FollowNewest() {
  const auto newest = reader_->Poll();
  if (!newest.ok()) {
    if (absl::IsUnavailable(newest.status())) return;  // the store is not there yet
    telemetry_.WeightsFailed(newest.status().code());
    Log(Severity::kWarning, "weights store not read", {{"status", newest.status().ToString()}});
    return;
  }
  if (!newest->has_value()) return;
  const PolicyVersion version = **newest;
  const std::shared_ptr<Engine> engine = serving_.engine();
  if (engine != nullptr && version <= engine->version()) return;
  if (version != failing_) failures_ = 0;
  if (failures_ > 0 && clock_.Now() < next_try_) return;
  const auto result = Take({.version = version}, options_.mode);
  if (result.ok()) {
    failures_ = 0;
    return;
  }
  failing_ = version;
  failure_ = result.status();
  ++failures_;
  next_try_ = clock_.Now() + Backoff(options_.retry, failures_, Meaning(options_.reader));
}

absl::StatusOr<UpdateResult> WeightsFollower::Take(const Announcement& announcement,
                                                   WeightsMode mode) {
  const auto take = [&]() -> absl::StatusOr<UpdateResult> {
    const std::shared_ptr<Engine> engine = serving_.engine();
    const PolicyVersion asked = announcement.version;
    if (engine != nullptr && asked == engine->version()) {
      return UpdateResult{.version = asked, .already_live = true};
    }
    if (engine != nullptr && asked < engine->version()) {
      return absl::FailedPreconditionError(
          absl::StrFormat("weights.version=%d is older than the live version %d", asked.value(),
                          engine->version().value()));
    }
    RETURN_IF_ERROR(RenewLeaseIfDue());
    const Stopwatch watch(clock_);
    ASSIGN_OR_RETURN(const weights::VersionInfo info, reader_->Verify(asked));
    telemetry_.BroadcastSeconds("verify", watch.Seconds());
    RETURN_IF_ERROR(Compare(announcement, info));
    ASSIGN_OR_RETURN(UpdateResult result, engine == nullptr ? LoadFirst(info) : Load(info, mode));
    options_.live(Doubt(info));
    return result;
  };
  auto result = take();
  if (!result.ok()) {
    telemetry_.WeightsFailed(result.status().code());
    Log(Severity::kWarning, "weights not taken over, the old ones stay",
        {{"version", announcement.version.value()}, {"status", result.status().ToString()}});
    return result;
  }
  if (result->already_live) return result;
  telemetry_.SetVersion(result->version);
  telemetry_.BroadcastSeconds("load", result->load_seconds);
  telemetry_.BroadcastSeconds("flip", result->flip_seconds);
  Log(Severity::kInfo, "weights live",
      {{"version", result->version.value()},
       {"load_seconds", result->load_seconds},
       {"flip_seconds", result->flip_seconds}});
  // They are in memory: a failure here costs only that the store keeps more than it must.
  if (const absl::Status status = reader_->Acknowledge(result->version); !status.ok()) {
    telemetry_.WeightsFailed(status.code());
    Log(Severity::kWarning, "weights not acknowledged", {{"status", status.ToString()}});
  } else {
    lease_renewed_ = clock_.Now();
  }
  return result;
}

absl::StatusOr<UpdateResult> WeightsFollower::Load(const weights::VersionInfo& info,
                                                   WeightsMode mode) {
  return serving_.engine()->UpdateWeights(info.folder, info.manifest.version, mode);
}

// Do the live weights say what their writer said?
absl::Status WeightsFollower::Doubt(const weights::VersionInfo& info) {
  const auto error = CanaryError(info, *serving_.engine());
  absl::Status doubt = error.status();
  if (error.ok() && error->has_value()) {
    telemetry_.CanaryError(**error);
    if (**error > options_.canary_limit) {
      doubt = absl::DataLossError(
          absl::StrFormat("version %d: canary prompts score %g nats off, inference.canary_limit=%g",
                          info.manifest.version.value(), **error, options_.canary_limit));
    }
  }
  if (!doubt.ok())
    Log(Severity::kError, "the live weights are doubted", {{"status", doubt.ToString()}});
  return doubt;
}

absl::StatusOr<UpdateResult> WeightsFollower::LoadFirst(const weights::VersionInfo& info) {
  const Stopwatch watch(clock_);
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const FolderChat> chat;
  const bool has_tokenizer =
      std::any_of(info.manifest.files.begin(), info.manifest.files.end(),
                  [](const weights::ManifestFile& file) { return file.name == "tokenizer.json"; });
  if (has_tokenizer) {
    ASSIGN_OR_RETURN(tokenizer, Tokenizer::Load(info.folder));
    chat = std::make_shared<const FolderChat>(FolderChat::Read(info.folder, "the model"));
    if (const absl::Status& status = chat->own().status(); !status.ok()) {
      Log(Severity::kInfo, "chat prompts are refused", {{"status", status.ToString()}});
    }
  }
  ASSIGN_OR_RETURN(std::shared_ptr<Engine> engine,
                   options_.make_engine(info.folder, info.manifest.version));
  serving_.Install(std::move(engine), std::move(tokenizer), std::move(chat));
  return UpdateResult{.version = info.manifest.version, .load_seconds = watch.Seconds()};
}

}  // namespace palimpsest::inference
