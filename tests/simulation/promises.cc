#include "tests/simulation/promises.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"
#include "services/orchestrator/core/decisions.h"
#include "tests/simulation/events.h"

namespace palimpsest::simulation {
namespace {

using orchestrator::BatchKind;
using orchestrator::GroupState;

// All that a trainer learns from a batch, in one text.
std::string Contents(const orchestrator::TrainBatch& batch) {
  std::string text = absl::StrFormat("%s %.17g", batch.id, batch.learning_rate);
  for (const orchestrator::SftItem& item : batch.sft) {
    text += absl::StrFormat("|%s %d:", item.id, item.prompt_tokens);
    text.append(item.ids.begin(), item.ids.end());
  }
  for (const orchestrator::RlItem& item : batch.rl) {
    text += absl::StrFormat("|%s %s %.17g %.17g:", item.group_id, item.rollout.id, item.advantage,
                            item.reward);
    text.append(item.rollout.tokens.begin(), item.rollout.tokens.end());
    for (const context::Event& event : item.rollout.events) {
      text += "!" + event.digest.value_or(context::Digest()).Hex();
    }
  }
  return text;
}

}  // namespace

std::vector<float> ReplayOf(int64_t step, const rl::Rollout& rollout) {
  return std::vector<float>(static_cast<size_t>(rl::SampledTokens(rollout)),
                            -static_cast<float>(step));
}

void Promises::Expect(bool holds, const std::string& promise, const std::string& how) {
  if (!holds) history_.Broken(promise, how);
}

void Promises::Published(int64_t version, int64_t step, const std::string& contents) {
  contents_[version] = contents;
  step_of_[version] = step;
}

void Promises::Served(int64_t version, const std::string& contents) {
  const auto found = contents_.find(version);
  Expect(found != contents_.end() && found->second == contents, "weights",
         absl::StrFormat("version %d is served as '%s'", version, contents));
}

void Promises::Asking(int requests, int sessions) {
  const auto& rl = scenario_.plan.rl;
  Expect(requests <= rl.max_in_flight && sessions <= rl.max_in_flight * rl.samples, "queues",
         absl::StrFormat("%d requests and %d sessions at once, with max_in_flight=%d", requests,
                         sessions, rl.max_in_flight));
}

void Promises::BatchCame(const orchestrator::TrainBatch& batch) {
  std::string contents = Contents(batch);
  const auto [before, fresh] = batches_.emplace(batch.step, contents);
  if (!fresh) {
    Expect(before->second == contents, "batches",
           absl::StrFormat("step %d came with other contents: %s", batch.step, batch.id));
    return;
  }
  std::map<std::string, Group> groups;
  for (const orchestrator::RlItem& item : batch.rl) {
    CheckItem(batch, item, groups);
    replayed_[item.rollout.id] = ReplayOf(batch.step, item.rollout);
    events_[item.rollout.id] = static_cast<int32_t>(item.rollout.events.size());
    trained_events_ += std::ssize(item.rollout.events);
  }
  if (batch.rl.empty()) return;
  CheckGroups(batch, groups);
  groups_[batch.step] = std::move(groups);
}

void Promises::GoesOn(const context::ContextPolicy& policy, const rl::Rollout& begun) {
  const absl::Status sound = CheckEvents(policy, begun);
  Expect(sound.ok(), "events", "to go on: " + sound.ToString());
}

void Promises::CheckItem(const orchestrator::TrainBatch& batch, const orchestrator::RlItem& item,
                         std::map<std::string, Group>& groups) {
  const absl::StatusOr<Told> told = Listen(item.rollout);
  if (!told.ok()) {
    history_.Broken("tokens", item.rollout.id + ": " + std::string(told.status().message()));
    return;
  }
  const auto policy = orchestrator::FindContext(scenario_.plan, scenario_.plan.rl.context);
  const absl::Status log = CheckEvents(policy.value(), item.rollout);
  Expect(log.ok(), "events", item.rollout.id + ": " + log.ToString());
  const double truth = Truth(told->task, told->split, told->index, told->responses.back().text);
  Expect(item.reward == truth, "rewards",
         absl::StrFormat("%s has %g and deserves %g", item.rollout.id, item.reward, truth));
  int64_t oldest = std::numeric_limits<int64_t>::max();
  for (const Response& response : told->responses) {
    oldest = std::min({oldest, step_of_[response.begun], step_of_[response.ended]});
  }
  const int64_t staleness = batch.step - 1 - oldest;
  Expect(staleness >= 0 && staleness <= scenario_.plan.rl.max_staleness, "staleness",
         absl::StrFormat("%s is %d steps old at step %d", item.rollout.id, staleness, batch.step));
  // Draws are of the group and the sample alone, however often it was asked for.
  const uint64_t group_seed =
      orchestrator::GroupSeed(run_seed_, std::stoll(item.group_id.substr(1)));
  int32_t sample = -1;
  for (int32_t i = 0; i < scenario_.plan.rl.samples; ++i) {
    const bool talk = told->task == kTalk;
    const uint64_t seed = talk ? orchestrator::SessionSeed(group_seed, i) : group_seed;
    if (item.rollout.seed == seed && (talk || item.rollout.sample == i)) sample = i;
  }
  Expect(sample >= 0, "prompts", item.rollout.id + " was drawn for another group");
  Group& group = groups[item.group_id];
  const std::string prompt = absl::StrFormat("%s %d %d", told->task, told->split, told->index);
  Expect(group.samples.empty() || group.prompt == prompt, "prompts",
         item.rollout.id + " is of another prompt than its group");
  group.prompt = prompt;
  Expect(group.samples.insert(sample).second, "batches", item.rollout.id + " is there twice");
}

void Promises::CheckGroups(const orchestrator::TrainBatch& batch,
                           const std::map<std::string, Group>& groups) {
  const auto& rl = scenario_.plan.rl;
  Expect(std::ssize(groups) == rl.prompts_per_batch, "batches",
         absl::StrFormat("step %d has %d groups", batch.step, groups.size()));
  for (const auto& [id, group] : groups) {
    Expect(std::ssize(group.samples) == rl.samples, "accepted",
           absl::StrFormat("step %d has %d rollouts of %s", batch.step, group.samples.size(), id));
  }
}

// Groups, and the prompts of each task, are numbered from 0 on. How many groups wait for a batch.
int64_t Promises::CheckNumbering(const orchestrator::Ledger& ledger) {
  std::map<int64_t, orchestrator::GroupRow> all;
  int64_t waiting = 0;
  for (const GroupState state :
       {GroupState::kOpen, GroupState::kReady, GroupState::kBatched, GroupState::kDropped}) {
    const auto groups = ledger.Groups(state);
    Expect(groups.ok(), "accepted", groups.status().ToString());
    if (!groups.ok()) return 0;
    if (state == GroupState::kOpen || state == GroupState::kReady) waiting += std::ssize(*groups);
    for (const orchestrator::GroupRow& group : *groups) all[group.id] = group;
  }
  std::map<std::string, int64_t> next;
  int64_t number = 0;
  for (const auto& [id, group] : all) {
    Expect(id == number, "prompts", absl::StrFormat("group %d stands where %d should", id, number));
    ++number;
    const int64_t prompt = next[group.task]++;
    Expect(group.index == prompt, "prompts",
           absl::StrFormat("group %d has prompt %d of %s, not %d", id, group.index, group.task,
                           prompt));
  }
  return waiting;
}

void Promises::Look(const orchestrator::Ledger& ledger) {
  const auto& rl = scenario_.plan.rl;
  const int64_t waiting = CheckNumbering(ledger);
  Expect(waiting <= (rl.max_staleness + 1) * rl.prompts_per_batch, "queues",
         absl::StrFormat("%d groups wait for a batch", waiting));
  const auto counts = ledger.Counts();
  const int64_t accepted = counts.ok() && counts->count("ok") > 0 ? counts->at("ok") : 0;
  Expect(accepted >= acknowledged_, "accepted",
         absl::StrFormat("%d rollouts were accepted, the ledger knows of %d", acknowledged_,
                         accepted));
  const int64_t last = ledger.LastStep().value_or(-1);
  Expect(batches_.empty() || last >= batches_.rbegin()->first, "batches",
         absl::StrFormat("the trainer has seen step %d, the ledger ends at %d",
                         batches_.empty() ? 0 : batches_.rbegin()->first, last));
  CheckConservation(ledger);
}

// Every rollout that was ever accepted is there, or was dropped and counted.
void Promises::CheckConservation(const orchestrator::Ledger& ledger) {
  auto counts = ledger.Counts();
  const auto groups = ledger.NextGroup();
  Expect(counts.ok() && groups.ok(), "accepted", "the ledger cannot be read");
  if (!counts.ok() || !groups.ok()) return;
  int64_t there = 0;
  for (int64_t group = 0; group < *groups; ++group) {
    const auto rollouts = ledger.Rollouts(group);
    if (rollouts.ok()) there += std::ssize(*rollouts);
  }
  const int64_t gone = (*counts)["stale"] + (*counts)["abandoned"];
  Expect((*counts)["ok"] == there + gone, "accepted",
         absl::StrFormat("%d were accepted, %d are there, %d were dropped", (*counts)["ok"], there,
                         gone));
}

void Promises::CheckBatches(const orchestrator::Ledger& ledger,
                            const std::vector<std::string>& trained) {
  const int64_t last = ledger.LastStep().value_or(-1);
  std::vector<std::string> ids;
  int64_t previous = -1;
  std::set<std::string> prompts;
  for (int64_t step = 1; step <= last; ++step) {
    const auto row = ledger.Batch(step);
    ids.push_back(row.ok() ? row->id : row.status().ToString());
    if (!row.ok() || row->kind != BatchKind::kRl) continue;
    for (const auto& [id, group] : groups_[step]) {
      const int64_t number = std::stoll(id.substr(1));
      Expect(number > previous, "prompts",
             absl::StrFormat("group %d is trained behind %d", number, previous));
      previous = number;
      Expect(prompts.insert(group.prompt).second, "prompts", group.prompt + " is used twice");
    }
    const auto members = ledger.Members(step);
    Expect(members.ok() && std::ssize(*members) ==
                               scenario_.plan.rl.prompts_per_batch * scenario_.plan.rl.samples,
           "accepted", absl::StrFormat("step %d lacks rollouts in the ledger", step));
    if (!members.ok()) continue;
    for (const orchestrator::RolloutRow& member : *members) {
      const auto rollout = ledger.FindRollout(member.id);
      // Nothing is kept when the answer was lost.
      Expect(
          rollout.ok() && (rollout->replayed.empty() || rollout->replayed == replayed_[member.id]),
          "replays", "another replay is kept of " + member.id);
      Expect(member.events == events_[member.id], "events",
             absl::StrFormat("the ledger has %d events of %s, the trainer had %d", member.events,
                             member.id, events_[member.id]));
    }
  }
  std::string weights, wanted;
  for (const std::string& id : trained) weights += id + " ";
  for (const std::string& id : ids) wanted += id + " ";
  Expect(trained == ids, "batches",
         "the weights are of " + weights + "and the ledger of " + wanted);
}

void Promises::CheckHeldout(const orchestrator::Ledger& ledger, const std::string& name,
                            int64_t step) {
  for (const bool greedy : {false, true}) {
    const auto rows = ledger.Evaluations(name, greedy, true);
    Expect(rows.ok() && std::ssize(*rows) == scenario_.plan.heldout.prompts, "liveness",
           "held-out '" + name + "' lacks prompts");
    if (!rows.ok()) continue;
    for (const orchestrator::EvaluationRow& row : *rows) {
      const std::string said = row.text.substr(row.text.rfind('>') + 1);
      const orchestrator::Episode episode = orchestrator::EpisodeOf(
          scenario_.plan, orchestrator::Split::kHeldout, run_seed_, row.index);
      const double truth =
          Truth(episode.task, static_cast<int>(episode.split), episode.index, said);
      Expect(row.reward == truth, "rewards",
             absl::StrFormat("held-out '%s' %d has %g and deserves %g", name, row.index, row.reward,
                             truth));
      const int64_t made_by = step_of_[std::stoll(row.text)];
      Expect(made_by == step, "weights",
             absl::StrFormat("held-out '%s' %d was made by step %d, not %d", name, row.index,
                             made_by, step));
    }
  }
}

void Promises::LookAtTheEnd(const orchestrator::Ledger& ledger,
                            const std::vector<std::string>& trained, int64_t durable_step,
                            int64_t open_sessions) {
  const auto& rl = scenario_.plan.rl;
  CheckBatches(ledger, trained);
  const int64_t last = ledger.LastStep().value_or(-1);
  const int64_t sft = last - rl.steps;
  Expect(std::ssize(groups_) == rl.steps, "liveness",
         absl::StrFormat("%d RL steps of %d", groups_.size(), rl.steps));
  Expect(durable_step == last, "batches",
         absl::StrFormat("the run is over at step %d, and %d are durable", last, durable_step));
  const auto open = ledger.Groups(GroupState::kOpen);
  const auto ready = ledger.Groups(GroupState::kReady);
  Expect(open.ok() && open->empty() && ready.ok() && ready->empty(), "prompts",
         "groups are left that are in no batch");
  CheckHeldout(ledger, "first", sft);
  CheckHeldout(ledger, "last", last);
  for (const std::string& name : scenario_.plan.heldout.also) {
    CheckHeldout(ledger, "also." + name, last);
  }
  Expect(open_sessions <= std::ssize(scenario_.faults), "queues",
         absl::StrFormat("%d sessions are left", open_sessions));
}

}  // namespace palimpsest::simulation
