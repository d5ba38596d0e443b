#include "services/inference/router/fleet.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/telemetry/log.h"

namespace palimpsest::inference {
namespace {

constexpr size_t kRememberSent = 1 << 16;  // requests
constexpr char kRole[] = "inference";

const char* NameOf(Standing standing) {
  switch (standing) {
    case Standing::kReady:
      return "ready";
    case Standing::kDoubtful:
      return "doubtful";
    case Standing::kAway:
      return "away";
  }
  return "unknown";
}

bool IsReady(Standing standing) { return standing == Standing::kReady; }
bool CanBeAsked(Standing standing) { return standing != Standing::kAway; }

std::string StateName(v1::ServingState state) {
  if (state == v1::SERVING_STATE_DRAINING) return "draining";
  if (state == v1::SERVING_STATE_PAUSED) return "paused";
  return "starting";
}

}  // namespace

struct Fleet::Poll {
  ReplicaPtr replica;
  grpc::ClientContext context;
  v1::InferenceServiceGetServerInfoRequest request;
  v1::InferenceServiceGetServerInfoResponse response;
};

// What the replica said, and what was sent there since.
int32_t Fleet::Entry::load() const {
  return std::max(sent, info.load().running() + info.load().queued() + sent - sent_at_poll);
}

Fleet::Fleet(Options options, RouterTelemetry& telemetry)
    : options_(std::move(options)),
      telemetry_(telemetry),
      sent_(kRememberSent),
      thread_([this] { Run(); }) {
  KeepCallbackQueue();
}

Fleet::~Fleet() {
  {
    const absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
  const absl::MutexLock lock(&mu_);
  for (const auto& poll : polls_) poll->context.TryCancel();
  const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return polls_.empty(); };
  mu_.Await(absl::Condition(&none));
}

ReplicaPtr Fleet::Next(Wish wish, const std::string& id, const std::vector<std::string>& but) {
  const absl::MutexLock lock(&mu_);
  if (!id.empty()) wish.known_to = sent_.Find(id);
  std::vector<ReplicaView> views;
  for (const auto& [name, entry] : entries_) {
    const bool tried = std::find(but.begin(), but.end(), name) != but.end();
    views.push_back({.name = name,
                     .standing = tried ? Standing::kAway : entry.standing,
                     .version = entry.info.policy_version(),
                     .load = entry.load(),
                     .room = entry.info.limits().max_running()});
  }
  const std::vector<size_t> order = OrderReplicas(views, wish, options_.load_factor);
  if (order.empty()) return nullptr;
  Entry& chosen = entries_.at(views[order[0]].name);
  if (but.empty()) telemetry_.Chosen(ChoiceOf(views, wish, order[0]));
  if (!id.empty()) sent_.Set(id, chosen.replica->name);
  chosen.sent += wish.samples;
  return chosen.replica;
}

void Fleet::Ended(const ReplicaPtr& replica, int32_t samples) {
  const absl::MutexLock lock(&mu_);
  if (Entry* entry = EntryOf(replica)) entry->sent -= samples;
}

void Fleet::Doubt(const ReplicaPtr& replica) {
  const absl::MutexLock lock(&mu_);
  Entry* entry = EntryOf(replica);
  if (entry == nullptr || entry->standing != Standing::kReady) return;
  Stand(*entry, Standing::kDoubtful, "did not answer a call");
  look_now_ = true;
}

std::vector<Fleet::Known> Fleet::All() const {
  const absl::MutexLock lock(&mu_);
  std::vector<Known> all;
  for (const auto& [name, e] : entries_) all.push_back({e.replica, e.standing, e.why});
  return all;
}

std::optional<Fleet::Known> Fleet::Find(const std::string& name) const {
  const absl::MutexLock lock(&mu_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return std::nullopt;
  return Known{it->second.replica, it->second.standing, it->second.why};
}

bool Fleet::Open() const {
  const absl::MutexLock lock(&mu_);
  return Count(CanBeAsked) > 0;
}

absl::Status Fleet::WhyNone() const {
  std::string why;
  for (const Known& known : All()) {
    why += absl::StrFormat("%s%s %s", why.empty() ? "" : "; ", known.replica->name, known.why);
  }
  return absl::UnavailableError(
      absl::StrFormat("no replica is ready: %s", why.empty() ? "none is known" : why));
}

// The version is the lowest: what is refused for it would be refused by somebody, and whoever
// answers has at least that one. So is n of a request; the rest adds up.
v1::InferenceServiceGetServerInfoResponse Fleet::Describe() const {
  const absl::MutexLock lock(&mu_);
  v1::InferenceServiceGetServerInfoResponse all;
  all.set_state(v1::SERVING_STATE_STARTING);
  bool first = true;
  for (const auto& [name, e] : entries_) {
    if (!CanBeAsked(e.standing)) continue;
    if (all.state() != v1::SERVING_STATE_SERVING) all.set_state(e.info.state());
    const v1::InferenceLimits& limits = e.info.limits();
    v1::InferenceLimits& sum = *all.mutable_limits();
    const auto least = [first](auto so_far, auto next) {
      return first ? next : std::min(so_far, next);
    };
    *all.mutable_model() = e.info.model();
    all.set_has_tokenizer(e.info.has_tokenizer());
    all.set_policy_version(least(all.policy_version(), e.info.policy_version()));
    sum.set_max_samples(least(sum.max_samples(), limits.max_samples()));
    sum.set_max_top_logprobs(least(sum.max_top_logprobs(), limits.max_top_logprobs()));
    sum.set_max_running(sum.max_running() + limits.max_running());
    sum.set_max_queued(sum.max_queued() + limits.max_queued());
    sum.set_max_sessions(sum.max_sessions() + limits.max_sessions());
    sum.set_kv_pool_bytes(sum.kv_pool_bytes() + limits.kv_pool_bytes());
    v1::InferenceLoad& load = *all.mutable_load();
    load.set_running(load.running() + e.info.load().running());
    load.set_queued(load.queued() + e.info.load().queued());
    load.set_sessions(load.sessions() + e.info.load().sessions());
    load.set_kv_bytes_free(load.kv_bytes_free() + e.info.load().kv_bytes_free());
    first = false;
  }
  return all;
}

void Fleet::Run() {
  const auto woken = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stopping_ || look_now_; };
  while (true) {
    Look();
    {
      const absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&woken), options_.poll);
      if (stopping_) return;
      look_now_ = false;
      TellReplicas();
    }
    options_.looked(Open());
  }
}

// One look at each replica whose last one was answered.
void Fleet::Look() {
  const std::map<std::string, std::string> addresses = options_.addresses();
  std::vector<std::shared_ptr<Poll>> polls;
  {
    const absl::MutexLock lock(&mu_);
    Follow(addresses);
    for (auto& [name, entry] : entries_) {
      if (std::exchange(entry.polling, true)) continue;
      const auto poll = std::make_shared<Poll>();
      poll->replica = entry.replica;
      poll->request.set_revision(v1::CONTRACT_REVISION_CURRENT);
      SetTimeout(poll->context, options_.patience);
      polls.push_back(poll);
      polls_.insert(poll);
    }
  }
  for (const auto& poll : polls) {
    poll->replica->stub->async()->GetServerInfo(
        &poll->context, &poll->request, &poll->response,
        [this, poll](const grpc::Status& status) { Heard(poll, FromGrpc(status)); });
  }
}

void Fleet::Follow(const std::map<std::string, std::string>& addresses) {
  std::erase_if(entries_, [&](const auto& entry) {
    const auto it = addresses.find(entry.first);
    return it == addresses.end() || it->second != entry.second.replica->address;
  });
  for (const auto& [name, address] : addresses) {
    if (entries_.contains(name)) continue;
    const auto channel =
        MakeChannel(address, options_.channel, options_.tls.Peer(Role::kInference));
    if (!channel.ok()) {
      Log(Severity::kError, "a replica has no good address",
          {{"replica", name}, {"status", channel.status().ToString()}});
      continue;
    }
    entries_[name].replica =
        std::make_shared<Replica>(Replica{name, address, v1::InferenceService::NewStub(*channel)});
    telemetry_.Knows(name);
    Log(Severity::kInfo, "a replica is known", {{"replica", name}, {"address", address}});
  }
}

void Fleet::Heard(const std::shared_ptr<Poll>& poll, const absl::Status& status) {
  const absl::MutexLock lock(&mu_);
  if (Entry* entry = EntryOf(poll->replica)) {
    const bool was_open = Count(CanBeAsked) > 0;
    entry->polling = false;
    const std::string unfit = status.ok() ? Unfit(poll->response) : status.ToString();
    if (status.ok()) {
      entry->info = poll->response;
      entry->sent_at_poll = entry->sent;
    }
    const bool paused = poll->response.state() == v1::SERVING_STATE_PAUSED;
    if (!unfit.empty()) {
      Stand(*entry, Standing::kAway, unfit);
    } else {
      Stand(*entry, paused ? Standing::kDoubtful : Standing::kReady, paused ? "paused" : "");
    }
    // The first that can be asked, and the last that could, are told at once.
    look_now_ |= was_open != (Count(CanBeAsked) > 0);
  }
  polls_.erase(poll);
}

std::string Fleet::Unfit(const v1::InferenceServiceGetServerInfoResponse& info) {
  if (info.server().role() != kRole) {
    return absl::StrFormat("is no replica: '%s' answers there", info.server().role());
  }
  if (!options_.run.empty() && !info.server().run().empty() &&
      info.server().run() != options_.run) {
    return absl::StrFormat("serves the run '%s', not '%s'", info.server().run(), options_.run);
  }
  if (info.state() != v1::SERVING_STATE_SERVING && info.state() != v1::SERVING_STATE_PAUSED) {
    return absl::StrFormat("is %s", StateName(info.state()));
  }
  const std::string model =
      info.model().SerializeAsString() + (info.has_tokenizer() ? " with a tokenizer" : "");
  if (!model_.has_value()) model_ = model;
  return *model_ == model ? "" : "serves another model than the first replica did";
}

void Fleet::Stand(Entry& entry, Standing standing, std::string why) {
  const bool changed = entry.standing != standing || entry.why != why;
  entry.standing = standing;
  entry.why = std::move(why);
  if (!changed) return;
  Log(standing == Standing::kReady ? Severity::kInfo : Severity::kWarning, "a replica's standing",
      {{"replica", entry.replica->name}, {"standing", NameOf(standing)}, {"why", entry.why}});
}

void Fleet::TellReplicas() {
  const int ready = Count(IsReady), open = Count(CanBeAsked);
  telemetry_.SetReplicas(ready, open - ready, static_cast<int>(entries_.size()) - open);
}

int Fleet::Count(bool (*good)(Standing)) const {
  return static_cast<int>(
      std::count_if(entries_.begin(), entries_.end(),
                    [good](const auto& entry) { return good(entry.second.standing); }));
}

Fleet::Entry* Fleet::EntryOf(const ReplicaPtr& replica) {
  const auto it = entries_.find(replica->name);
  return it != entries_.end() && it->second.replica == replica ? &it->second : nullptr;
}

}  // namespace palimpsest::inference
