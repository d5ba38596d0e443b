#include "tests/simulation/inference.h"

#include <algorithm>
#include <utility>

#include "common/weights/durable_file.h"
#include "common/weights/manifest.h"
#include "services/orchestrator/core/decisions.h"
#include "tests/simulation/events.h"
#include "tests/simulation/told.h"
#include "tests/simulation/weights_file.h"

namespace palimpsest::simulation {
namespace {

using orchestrator::GenerateCall;
using orchestrator::SessionCall;
using orchestrator::SessionRef;
using orchestrator::SessionStep;
using rl::Origin;
using Samples = std::vector<orchestrator::Sample>;

constexpr absl::Duration kCall = absl::Seconds(10);
constexpr absl::Duration kPoll = absl::Seconds(3);
constexpr int32_t kMaxPosition = 512;

absl::Status Away() { return absl::UnavailableError("the replica is away"); }

rl::Rollout Started(const std::string& id, const std::vector<int32_t>& prompt, uint64_t seed) {
  rl::Rollout rollout{.id = id,
                      .tokens = prompt,
                      .prompt_tokens = static_cast<int32_t>(prompt.size()),
                      .seed = seed};
  rollout.origins.assign(prompt.size(), Origin::kPrompt);
  rollout.logprobs.assign(prompt.size(), 0);
  return rollout;
}

// `epoch`: of the KV that the tokens were made with.
template <class Ids>
void Append(const Ids& ids, Origin origin, int64_t version, int32_t epoch, rl::Rollout& rollout) {
  const auto begin = static_cast<int32_t>(rollout.tokens.size());
  rollout.tokens.insert(rollout.tokens.end(), ids.begin(), ids.end());
  const auto end = static_cast<int32_t>(rollout.tokens.size());
  rollout.origins.resize(rollout.tokens.size(), origin);
  rollout.logprobs.resize(rollout.tokens.size(), origin == Origin::kSampled ? -0.5f : 0.0f);
  if (begin == end) return;
  if (!rollout.spans.empty() && rollout.spans.back().version.value() == version &&
      rollout.spans.back().kv_epoch == epoch) {
    rollout.spans.back().end = end;
  } else {
    rollout.spans.push_back({begin, end, PolicyVersion(version), epoch});
  }
}

int32_t EpochOf(const rl::Rollout& rollout) {
  return rollout.spans.empty() ? 0 : rollout.spans.back().kv_epoch;
}

bool WasCut(const rl::Rollout& rollout) {
  return rollout.finish_reason == rl::FinishReason::kCancelled;
}

orchestrator::Sample Failed(int32_t sample, const absl::Status& why) {
  return {.sample = sample,
          .status = why,
          .outcome = absl::IsCancelled(why) ? rl::Outcome::kCancelled : rl::Outcome::kInfraFailed,
          .retryable = true};
}

}  // namespace

// A request that a replica works at.
class SimInference::Running {
 public:
  explicit Running(Replica& replica) : replica_(replica), life_(replica.life) { ++replica.running; }
  ~Running() {
    if (replica_.life == life_) --replica_.running;
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Replica& replica_;
  const int life_;
};

SimInference::SimInference(const Scenario& scenario, std::string store, Scheduler& scheduler,
                           Network& network, History& history, Promises& promises)
    : scenario_(scenario),
      store_(std::move(store)),
      scheduler_(scheduler),
      network_(network),
      history_(history),
      promises_(promises),
      random_(MixSeed({scenario.seed, Meaning("inference")})) {
  for (int i = 0; i < scenario.replicas; ++i) {
    Replica& replica = *replicas_.emplace_back(std::make_unique<Replica>());
    replica.name = absl::StrFormat("replica-%d", i);
    scheduler_.Spawn([this, &replica] { Follow(replica); });
  }
}

void SimInference::Die(size_t number) {
  Replica& replica = *replicas_[number];
  history_.Add(replica.name + " dies");
  ++replica.life;
  replica.up = false;
  replica.running = 0;
  replica.version = 0;
  replica.sessions.clear();
  scheduler_.Spawn([this, &replica, life = replica.life, away = 20 * random_.Uniform()] {
    scheduler_.SleepFor(absl::Seconds(away));
    if (life == replica.life) Follow(replica);
  });
}

int64_t SimInference::open_sessions() const {
  int64_t open = 0;
  for (const auto& replica : replicas_) open += std::ssize(replica->sessions);
  return open;
}

void SimInference::Follow(Replica& replica) {
  const int life = replica.life;
  replica.reader = weights::StoreReader::Open(store_, {.reader = replica.name}, scheduler_).value();
  while (!ending_ && life == replica.life) {
    replica.reader->RenewLease().IgnoreError();
    const bool stays = scenario_.plant == Plant::kNeverServed && replica.up;
    if (!stays) Take(replica, std::nullopt).IgnoreError();
    scheduler_.SleepFor(kPoll * (0.5 + random_.Uniform()));
  }
}

absl::StatusOr<int64_t> SimInference::Newest(const Replica& replica) const {
  if (scenario_.plant != Plant::kHalfWeightsServed) {
    ASSIGN_OR_RETURN(const std::optional<PolicyVersion> newest, replica.reader->Poll());
    return newest.has_value() ? newest->value() : 0;
  }
  int64_t newest = 0;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(store_));
  for (const std::string& name : names) {
    const auto version = weights::VersionFromFolderName(name);
    if (version.has_value()) newest = std::max(newest, version->value());
  }
  return newest;
}

absl::StatusOr<std::string> SimInference::ReadVersion(Replica& replica, int64_t version) const {
  const std::string folder = store_ + "/" + weights::FolderName(PolicyVersion(version));
  if (scenario_.plant != Plant::kHalfWeightsServed) {
    RETURN_IF_ERROR(replica.reader->Verify(PolicyVersion(version)).status());
  }
  return weights::ReadSmallFile(folder + "/" + kWeightsFile, 1 << 20);
}

absl::Status SimInference::Take(Replica& replica, std::optional<int64_t> wanted) {
  const int life = replica.life;
  int64_t version = wanted.value_or(0);
  if (!wanted.has_value()) {
    ASSIGN_OR_RETURN(version, Newest(replica));
  }
  if (version < replica.version) return absl::FailedPreconditionError("newer weights are live");
  if (version == replica.version) return absl::OkStatus();
  const absl::StatusOr<std::string> contents = ReadVersion(replica, version);
  if (wanted.has_value() && absl::IsUnavailable(contents.status())) {
    return absl::NotFoundError(contents.status().message());
  }
  RETURN_IF_ERROR(contents.status());
  scheduler_.SleepFor(absl::Seconds(0.1 + random_.Uniform()));
  if (life != replica.life) return Away();
  if (version <= replica.version) return absl::OkStatus();
  promises_.Served(version, *contents);
  replica.version = version;
  replica.up = true;
  history_.Add(absl::StrFormat("%s serves version %d", replica.name, version));
  return replica.reader->Acknowledge(PolicyVersion(version));
}

absl::Status SimInference::MaySample(const Replica& replica,
                                     std::optional<PolicyVersion> min_version) const {
  if (!replica.up) return Away();
  if (replica.running >= scenario_.replica_room) return absl::ResourceExhaustedError("full");
  if (!min_version.has_value() || min_version->value() <= replica.version) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat("version %d is live, %d is asked for",
                                                       replica.version, min_version->value()));
}

bool SimInference::IsLost(int& left) {
  if (left == 0) return false;
  --left;
  return true;
}

absl::Status SimInference::Say(Replica& replica, int aborts, uint64_t seed, int32_t turn,
                               const context::ContextPolicy& context, rl::Rollout& rollout,
                               std::string& text) {
  const int life = replica.life;
  const absl::Status aborted = absl::CancelledError("aborted");
  if (aborts != aborts_) return aborted;
  const bool goes_on = WasCut(rollout);
  const int32_t epoch = EpochOf(rollout) + (goes_on ? 1 : 0);  // its KV is made again from the log
  const int64_t begun = goes_on ? rollout.spans.back().version.value() : replica.version;
  scheduler_.SleepFor(absl::Seconds(3 * random_.Uniform()));
  if (life != replica.life) return Away();
  const Response said = Respond(seed, rollout.sample, turn, begun, replica.version);
  const bool lie = scenario_.plant == Plant::kOldWeightsDenied;
  if (!goes_on) {
    Append(said.text.substr(0, static_cast<size_t>(said.slash)), Origin::kSampled,
           lie ? said.ended : said.begun, epoch, rollout);
    rollout.events = EventsOf(context, rollout);
  }
  rollout.finish_reason = rl::FinishReason::kCancelled;
  if (aborts != aborts_) return aborted;
  if (IsLost(lost_samples_)) return absl::InternalError("the sample is lost");
  Append(said.text.substr(static_cast<size_t>(said.slash)), Origin::kSampled, said.ended, epoch,
         rollout);
  rollout.events = EventsOf(context, rollout);
  rollout.finish_reason = rl::FinishReason::kStop;
  if (goes_on) ++continued_;
  text = said.text;
  return absl::OkStatus();
}

void SimInference::GoOn(const context::ContextPolicy& context, const rl::Rollout& begun) {
  promises_.GoesOn(context, begun);
  continued_events_ += std::ssize(begun.events);
}

absl::StatusOr<Samples> SimInference::Serve(Replica& replica, const GenerateCall& call) {
  RETURN_IF_ERROR(MaySample(replica, call.min_version));
  const Running running(replica);
  const int aborts = aborts_;
  Samples samples;
  for (int32_t number = call.first_sample; number < call.first_sample + call.n; ++number) {
    orchestrator::Sample sample{.sample = number};
    sample.rollout = Started(call.request_id, call.prompt, call.sampling.seed);
    sample.rollout.sample = number;
    sample.rollout.greedy = call.sampling.temperature == 0;
    for (const rl::Rollout& begun : call.begun) {
      if (begun.sample != number) continue;
      GoOn(call.context, begun);
      sample.rollout = begun;
    }
    const absl::Status status =
        Say(replica, aborts, call.sampling.seed, 0, call.context, sample.rollout, sample.text);
    if (status.ok()) {
      samples.push_back(std::move(sample));
      continue;
    }
    samples.push_back(Failed(number, status));
    const bool handed_on = absl::IsCancelled(status) && WasCut(sample.rollout);
    if (handed_on) samples.back().rollout = std::move(sample.rollout);
  }
  return samples;
}

absl::StatusOr<Samples> SimInference::Generate(const GenerateCall& call) {
  promises_.Asking(++asking_, playing_);
  absl::StatusOr<Samples> answer = Away();
  for (size_t i = 0; i < replicas_.size(); ++i) {
    Replica& replica = *replicas_[(call.replica + i) % replicas_.size()];
    const auto accepted = std::make_shared<bool>(false);
    answer = network_.Call<Samples>(replica.name + ".generate " + call.request_id,
                                    scenario_.plan.peers.generate_deadline,
                                    [this, &replica, call, accepted] {
                                      absl::StatusOr<Samples> samples = Serve(replica, call);
                                      *accepted = samples.ok();
                                      return samples;
                                    });
    if (!answer.ok() && *accepted && network_.alive()) {
      const absl::Status why = answer.status();
      answer = Samples();
      for (int32_t n = 0; n < call.n; ++n) answer->push_back(Failed(call.first_sample + n, why));
    }
    if (!absl::IsUnavailable(answer.status())) break;
  }
  --asking_;
  return answer;
}

absl::StatusOr<SessionRef> SimInference::CreateSession(const SessionCall& call) {
  promises_.Asking(asking_, ++playing_);
  absl::StatusOr<SessionRef> answer = Away();
  for (size_t i = 0; i < replicas_.size() && absl::IsUnavailable(answer.status()); ++i) {
    const size_t number = (call.replica + i) % replicas_.size();
    answer = network_.Call<SessionRef>(
        replicas_[number]->name + ".create " + call.request_id, kCall,
        [this, number, call]() -> absl::StatusOr<SessionRef> {
          Replica& replica = *replicas_[number];
          RETURN_IF_ERROR(MaySample(replica, call.min_version));
          const std::string id = absl::StrFormat("s%d", ++made_sessions_);
          if (call.begun.has_value()) GoOn(call.context, *call.begun);
          replica.sessions[id] = {
              call.begun.value_or(Started(call.request_id, call.prompt, call.seed)), call.context};
          continued_episodes_ += call.begun.has_value();
          return SessionRef{.id = id, .replica = number};
        });
  }
  if (!answer.ok()) --playing_;
  return answer;
}

absl::StatusOr<orchestrator::Sample> SimInference::ServeStep(Replica& replica,
                                                             const SessionStep& step) {
  if (!replica.up) return Away();
  if (IsLost(lost_sessions_)) replica.sessions.erase(step.session.id);
  const auto found = replica.sessions.find(step.session.id);
  if (found == replica.sessions.end()) return absl::NotFoundError("no such session");
  if (step.expected_tokens != std::ssize(found->second.rollout.tokens)) {
    return absl::FailedPreconditionError("the session has other tokens");
  }
  const Running running(replica);
  orchestrator::Sample sample;
  sample.rollout = found->second.rollout;
  const context::ContextPolicy context = found->second.context;
  rl::Rollout& rollout = sample.rollout;
  rollout.greedy = step.sampling.temperature == 0;
  Append(step.new_ids, Origin::kInjected, replica.version, EpochOf(rollout), rollout);
  const auto turn = static_cast<int32_t>(
      std::count(rollout.tokens.begin(), rollout.tokens.end(), kObservation[0]));
  const absl::Status status =
      Say(replica, aborts_, rollout.seed, turn, context, rollout, sample.text);
  if (!status.ok()) return Failed(0, status);
  // It may have been deleted meanwhile.
  const auto still = replica.sessions.find(step.session.id);
  if (still != replica.sessions.end()) still->second.rollout = rollout;
  return sample;
}

absl::StatusOr<orchestrator::Sample> SimInference::StepSession(const SessionStep& step) {
  Replica& replica = *replicas_[step.session.replica];
  return network_.Call<orchestrator::Sample>(
      replica.name + ".step " + step.request_id, scenario_.plan.peers.generate_deadline,
      [this, &replica, step] { return ServeStep(replica, step); });
}

void SimInference::DeleteSession(const SessionRef& session) {
  --playing_;
  Replica& replica = *replicas_[session.replica];
  network_
      .Call<bool>(replica.name + ".delete " + session.id, kCall,
                  [&replica, id = session.id]() -> absl::StatusOr<bool> {
                    return replica.sessions.erase(id) > 0;
                  })
      .IgnoreError();
}

absl::StatusOr<orchestrator::ModelFacts> SimInference::Describe() {
  return network_.Call<orchestrator::ModelFacts>(
      "inference.describe", kCall, [this]() -> absl::StatusOr<orchestrator::ModelFacts> {
        for (const auto& replica : replicas_) {
          if (!replica->up) continue;
          return orchestrator::ModelFacts{.layers = kShape.layers,
                                          .kv_heads = kShape.kv_heads,
                                          .max_position = kMaxPosition,
                                          .stop_ids = {256},
                                          .version = PolicyVersion(replica->version)};
        }
        return Away();
      });
}

absl::Status SimInference::UpdateWeights(const orchestrator::Weights& weights) {
  std::vector<absl::Status> answers;
  for (const auto& replica : replicas_) {
    answers.push_back(
        network_
            .Call<bool>(absl::StrFormat("%s.update %d", replica->name, weights.version.value()),
                        kCall,
                        [this, &replica = *replica,
                         version = weights.version.value()]() -> absl::StatusOr<bool> {
                          if (!replica.up) return Away();
                          if (scenario_.plant == Plant::kNeverServed) return true;
                          RETURN_IF_ERROR(Take(replica, version));
                          return true;
                        })
            .status());
  }
  return orchestrator::ServedByFleet(answers);
}

// Is called by who holds a lock of the run, so nobody waits here.
absl::Status SimInference::AbortAll(const std::string&) {
  if (!network_.alive()) return absl::DataLossError("the orchestrator is dead");
  ++aborts_;
  for (const auto& replica : replicas_) replica->sessions.clear();
  return absl::OkStatus();
}

}  // namespace palimpsest::simulation
