#include "services/env/engine/worker_pool.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/telemetry/log.h"

namespace palimpsest::env {
namespace {

// A Python that ends closes its socket first, and then takes a while.
constexpr absl::Duration kEndingGrace = absl::Milliseconds(500);

void Post(const UniqueFd& event, uint64_t count) {
  // Fails only when the counter is full, which 2^64 - 1 jobs would take.
  [[maybe_unused]] const ssize_t written = write(event.get(), &count, sizeof count);
}

absl::Status Stopping() { return absl::UnavailableError("the daemon stops"); }

constexpr char kEnded[] = "ended", kTimeLimit[] = "time_limit", kBrokenAnswer[] = "broken_answer";

std::string_view CauseOf(const absl::Status& how) {
  switch (how.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      return kTimeLimit;
    case absl::StatusCode::kDataLoss:
      return kBrokenAnswer;
    default:
      return kEnded;
  }
}

}  // namespace

WorkerMetrics::WorkerMetrics(Metrics& metrics)
    : alive(metrics.AddGauge({"env_workers_alive", "Worker processes that answer.", {"worker"}})),
      waiting(metrics.AddGauge(
          {"env_workers_waiting", "Calls that wait for a free worker process.", {"worker"}})),
      losses(metrics.AddCounter({"env_workers_lost_total",
                                 "Worker processes that were lost and replaced: ended, time_limit, "
                                 "broken_answer.",
                                 {"worker", "cause"}})) {}

struct WorkerPool::Job {
  WorkerCall call;
  absl::Status status;  // set before `done`
  absl::Notification done;
};

WorkerPool::WorkerPool(const WorkerConfig& config, const WorkerCall& greeting,
                       const WorkerMetrics& metrics, Clock& clock)
    : config_(config),
      greeting_(greeting),
      metrics_(metrics),
      alive_(metrics_.alive.With({config.command.name})),
      waiting_(metrics_.waiting.With({config.command.name})),
      clock_(clock),
      stop_(eventfd(0, EFD_CLOEXEC)),
      work_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) {
  for (const char* cause : {kEnded, kTimeLimit, kBrokenAnswer}) {
    metrics_.losses.With({config.command.name, cause});
  }
}

absl::StatusOr<std::unique_ptr<Worker>> WorkerPool::Start(const WorkerConfig& config,
                                                          const WorkerCall& greeting,
                                                          const WorkerMetrics& metrics,
                                                          Clock& clock) {
  auto pool = std::unique_ptr<WorkerPool>(new WorkerPool(config, greeting, metrics, clock));
  if (pool->stop_.get() < 0 || pool->work_.get() < 0) {
    return absl::ErrnoToStatus(errno, "eventfd");
  }
  for (int i = 0; i < config.processes; ++i) {
    pool->keepers_.emplace_back([&pool = *pool] { pool.Keep(); });
  }
  absl::Status failure;
  {
    absl::MutexLock lock(&pool->mu_);
    const auto known = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(pool->mu_) {
      return pool->started_ == config.processes || !pool->start_failure_.ok();
    };
    pool->mu_.Await(absl::Condition(&known));
    failure = pool->start_failure_;
  }
  if (absl::IsAborted(failure)) return absl::FailedPreconditionError(failure.message());
  if (!failure.ok()) return failure;
  return pool;
}

WorkerPool::~WorkerPool() { Stop(); }

void WorkerPool::Stop() {
  std::deque<std::shared_ptr<Job>> left;
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return;
    stopping_ = true;
    left.swap(jobs_);
  }
  for (const auto& job : left) {
    job->status = Stopping();
    job->done.Notify();
  }
  Post(stop_, 1);
  Post(work_, keepers_.size());
  for (std::thread& keeper : keepers_) keeper.join();
}

absl::Status WorkerPool::Call(WorkerCall call, absl::Time deadline) {
  // Long enough for a process that has to be started first.
  deadline = std::min(deadline, clock_.Now() + config_.start_timeout + config_.call_timeout);
  const auto job = std::make_shared<Job>();
  job->call = std::move(call);
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return Stopping();
    if (jobs_.size() >= static_cast<size_t>(config_.max_waiting)) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "worker %s: %d calls wait already", config_.command.name, config_.max_waiting));
    }
    jobs_.push_back(job);
    waiting_.Set(static_cast<double>(jobs_.size()));
  }
  Post(work_, 1);
  if (!job->done.WaitForNotificationWithTimeout(deadline - clock_.Now()) && Remove(job)) {
    absl::MutexLock lock(&mu_);
    return absl::UnavailableError(absl::StrFormat(
        "worker %s: none of %d processes was free in time%s", config_.command.name,
        config_.processes, last_loss_.ok() ? "" : "; " + std::string(last_loss_.message())));
  }
  job->done.WaitForNotification();  // it has begun: its own time limit ends it
  return job->status;
}

// False: a process has begun it.
bool WorkerPool::Remove(const std::shared_ptr<Job>& job) {
  absl::MutexLock lock(&mu_);
  const auto found = std::find(jobs_.begin(), jobs_.end(), job);
  if (found == jobs_.end()) return false;
  jobs_.erase(found);
  waiting_.Set(static_cast<double>(jobs_.size()));
  return true;
}

// nullptr: another process was quicker, or its caller has left.
std::shared_ptr<WorkerPool::Job> WorkerPool::Take() {
  uint64_t one = 0;
  if (read(work_.get(), &one, sizeof one) < 0) return nullptr;
  absl::MutexLock lock(&mu_);
  if (jobs_.empty()) return nullptr;
  std::shared_ptr<Job> job = std::move(jobs_.front());
  jobs_.pop_front();
  waiting_.Set(static_cast<double>(jobs_.size()));
  return job;
}

// The life of one thread: processes, one after the other.
void WorkerPool::Keep() {
  absl::Duration backoff = config_.first_backoff;
  while (true) {
    bool useful = false;
    const absl::Status status = Live(useful);
    ReportStart(status);
    if (absl::IsCancelled(status)) return;
    if (useful) backoff = config_.first_backoff;
    Log(Severity::kWarning, "a worker process was lost",
        {{"worker", config_.command.name},
         {"why", std::string(status.message())},
         {"restart_in_s", absl::ToDoubleSeconds(backoff)}});
    if (!Pause(backoff)) return;
    backoff = std::min(backoff * 2, config_.max_backoff);
  }
}

// False: the pool stops.
bool WorkerPool::Pause(absl::Duration wait) const {
  pollfd stop{stop_.get(), POLLIN, 0};
  return poll(&stop, 1, static_cast<int>(absl::ToInt64Milliseconds(wait))) <= 0;
}

// Of the first lives only; later ones change nothing any more.
void WorkerPool::ReportStart(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  if (status.ok()) {
    started_ += started_ < config_.processes ? 1 : 0;
  } else if (started_ < config_.processes && start_failure_.ok()) {
    start_failure_ = status;
  }
  if (!status.ok()) last_loss_ = status;
}

// One process, to its end: kCancelled when the pool stops, else how it was lost.
absl::Status WorkerPool::Live(bool& useful) {
  const auto started = WorkerProcess::Start(config_.command, clock_);
  if (!started.ok()) {
    return absl::AbortedError(absl::StrFormat("worker %s: %s", config_.command.name,
                                              std::string(started.status().message())));
  }
  const std::unique_ptr<WorkerProcess>& process = *started;
  RETURN_IF_ERROR(Ask(*process, greeting_, config_.start_timeout));
  ReportStart(absl::OkStatus());
  alive_.Add(1);
  const absl::Status status = Serve(*process, useful);
  alive_.Add(-1);
  return status;
}

absl::Status WorkerPool::Serve(WorkerProcess& process, bool& useful) {
  while (true) {
    if (const absl::Status idle = process.AwaitWork(work_.get()); !idle.ok()) {
      return Lost(process, idle);
    }
    {
      absl::MutexLock lock(&mu_);
      if (stopping_) return absl::CancelledError("the daemon stops");
    }
    const std::shared_ptr<Job> job = Take();
    if (job == nullptr) continue;
    const absl::Status status = Ask(process, job->call, config_.call_timeout);
    job->status = absl::IsCancelled(status)          ? Stopping()
                  : absl::IsDeadlineExceeded(status) ? absl::AbortedError(status.message())
                                                     : status;
    job->done.Notify();
    if (!status.ok()) return status;
    useful = true;
  }
}

absl::Status WorkerPool::Ask(WorkerProcess& process, const WorkerCall& call,
                             absl::Duration timeout) {
  const absl::StatusOr<std::string> answer =
      process.Exchange(call.request, clock_.Now() + timeout, stop_.get());
  if (absl::IsDeadlineExceeded(answer.status())) {
    return Lost(process, absl::DeadlineExceededError("it gave no answer in " +
                                                     absl::FormatDuration(timeout)));
  }
  if (!answer.ok()) return Lost(process, answer.status());
  const absl::Status accepted = call.accept(*answer);
  if (accepted.ok()) return accepted;
  return Lost(process,
              absl::DataLossError("its answer is broken: " + std::string(accepted.message())));
}

// Ends the process. kAborted with the reason; kCancelled and kDeadlineExceeded stay what they are.
absl::Status WorkerPool::Lost(WorkerProcess& process, const absl::Status& how) {
  if (absl::IsCancelled(how)) return how;
  const std::string ending =
      process.End(absl::IsUnavailable(how) ? kEndingGrace : absl::ZeroDuration());
  metrics_.losses.With({config_.command.name, std::string(CauseOf(how))}).Add();
  return absl::Status(absl::IsDeadlineExceeded(how) ? how.code() : absl::StatusCode::kAborted,
                      absl::StrFormat("worker %s (pid %d): %s; %s", config_.command.name,
                                      process.pid(), std::string(how.message()), ending));
}

}  // namespace palimpsest::env
