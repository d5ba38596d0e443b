// make_run FOLDER: the ledger of a small run that is over, for page_test.py. Every number is made
// by a formula that the test knows too; texts hold what a page must not run.
#include <filesystem>
#include <iostream>

#include "absl/strings/str_format.h"
#include "services/orchestrator/engine/ledger.h"
#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {
namespace {

constexpr int kLayers = 2, kHeads = 2, kSftSteps = 3, kRlSteps = 6, kGroupsOfBatch = 2,
              kSamples = 2;
constexpr float kWorst = 0.25f;  // mismatch, nats
constexpr char kPrompt[] = "^a7b6?go";
constexpr char kResponse[] =
    "<script>window.bad=1</script> The page is\nscraped & written on again, \"twice\"; #a7b6$";

// Of the first event every head keeps a third of its window, of the second every fourth position
// of what is left and every other one of the rest.
bool Kept(int event, int layer, int head, int32_t p) {
  if (event == 0) return (p + layer + head) % 3 == 0;
  return p < 20 ? Kept(0, layer, head, p) && p % 4 == 0 : (p + 2 * layer + head) % 2 == 0;
}

context::Event EventOf(int event) {
  context::Event e{.at = event == 0 ? 24 : 44, .window = {8, event == 0 ? 20 : 40}};
  e.reference = {e.at - 10, e.at};
  e.quality = {.mass_error = 0.01 * (event + 1), .output_error = 0.02, .kkt_residual = 1e-14};
  e.seconds = 0.0025;
  e.kept = context::KeptPositions({kLayers, kHeads});
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int head = 0; head < kHeads; ++head) {
      std::vector<int32_t> kept;
      for (int32_t p = e.window.begin; p < e.window.end; ++p) {
        if (Kept(event, layer, head, p)) kept.push_back(p);
      }
      e.kept.AddHead(kept);
    }
  }
  return e;
}

// The last five tokens but one were injected; the weights changed in the middle.
rl::Rollout RolloutOf(const std::string& id, int sample, int64_t version) {
  rl::Rollout r{.id = id, .prompt_tokens = sizeof(kPrompt) - 1, .sample = sample};
  for (const char c : std::string(kPrompt) + kResponse) r.tokens.push_back(c);
  const auto size = static_cast<int32_t>(r.tokens.size());
  for (int32_t p = 0; p < size; ++p) {
    const bool prompt = p < r.prompt_tokens, injected = p >= size - 6 && p < size - 1;
    r.origins.push_back(prompt     ? rl::Origin::kPrompt
                        : injected ? rl::Origin::kInjected
                                   : rl::Origin::kSampled);
    r.logprobs.push_back(prompt || injected ? 0 : -0.125f * static_cast<float>(p % 30));
  }
  r.events = {EventOf(0), EventOf(1)};
  r.spans = {{r.prompt_tokens, 50, PolicyVersion(version), 0},
             {50, size, PolicyVersion(version + 1), 1}};
  return r;
}

// What the trainer makes of a rollout: of each size of mismatch one, all exact in fp32.
rl::Replayed ReplayedOf(const rl::Rollout& rollout) {
  constexpr float kMismatch[] = {0, 0x1p-19f, -0x1p-15f, 0x1p-9f, -kWorst};
  rl::Replayed replayed{.id = rollout.id};
  for (size_t p = 0; p < rollout.tokens.size(); ++p) {
    if (rollout.origins[p] != rl::Origin::kSampled) continue;
    replayed.logprobs.push_back(rollout.logprobs[p] + kMismatch[p % 5]);
  }
  return replayed;
}

RolloutRow RowOf(int64_t group, int sample) {
  RolloutRow row;
  row.id = absl::StrFormat("g%06d.a0.%d.1", group, sample);
  row.group = group;
  row.sample = sample;
  row.episode = {.task = "registers", .seed = 1, .index = group};
  row.reward = 0.1 * static_cast<double>(group % 10) + 0.01 * sample;
  row.reason = "<img src=x onerror=window.bad=1> answer";
  row.text = kResponse;
  const rl::Rollout rollout = RolloutOf(row.id, sample, group + 1);
  row.bytes = WireRolloutCodec().Encode(rollout);
  row.prompt_tokens = rollout.prompt_tokens;
  row.total_tokens = static_cast<int32_t>(rollout.tokens.size());
  row.events = 2;
  row.min_version = group + 1;
  row.max_version = group + 2;
  return row;
}

// What is replayed in the last step is not kept.
absl::Status Train(Ledger& ledger, int64_t step, const std::string& stage, bool rl) {
  BatchRow batch{.step = step, .id = stage + std::to_string(step), .stage = stage};
  StepRow row{.step = step, .stage = stage, .loss = 1.0 / static_cast<double>(step)};
  std::vector<int64_t> groups;
  std::map<std::string, double> advantages;
  std::vector<rl::Replayed> replayed;
  const bool kept = step < kSftSteps + kRlSteps;
  for (int i = 0; rl && i < kGroupsOfBatch; ++i) {
    ASSIGN_OR_RETURN(const GroupRow group, ledger.OpenGroup("registers"));
    std::vector<RolloutRow> rows;
    for (int sample = 0; sample < kSamples; ++sample) rows.push_back(RowOf(group.id, sample));
    for (const RolloutRow& r : rows) {
      advantages[r.id] = r.sample == 0 ? -1 : 1;
      if (kept) replayed.push_back(ReplayedOf(RolloutOf(r.id, r.sample, group.id + 1)));
    }
    RETURN_IF_ERROR(ledger.Accept(group.id, rows, true, absl::FromUnixSeconds(1000 + step)));
    groups.push_back(group.id);
  }
  if (!rl) {
    RETURN_IF_ERROR(ledger.CommitSftBatch(batch));
    return ledger.MarkTrained(row);
  }
  batch.kind = BatchKind::kRl;
  row.reward = 0.5 + 0.05 * static_cast<double>(step);
  row.sampled_tokens = 400;
  row.mean_total_tokens = 90;
  row.events = 2;
  row.staleness_max = step % 2;
  row.mismatch_kl = 1e-13 * static_cast<double>(step);
  row.mismatch_max_abs = kept ? kWorst : 1e-6 * static_cast<double>(step);
  row.generate_seconds = 2;
  row.train_seconds = 3;
  RETURN_IF_ERROR(ledger.CommitRlBatch(batch, groups, advantages));
  return ledger.MarkTrained(row, replayed);
}

absl::Status Measure(Ledger& ledger, const std::string& name, double reward) {
  for (const bool greedy : {false, true}) {
    for (int64_t i = 0; i < 4; ++i) {
      RETURN_IF_ERROR(ledger.SaveEvaluation({name, greedy, i, reward + 0.1 * greedy}));
    }
  }
  return absl::OkStatus();
}

absl::Status Make(const std::string& folder) {
  std::filesystem::create_directories(folder);
  ASSIGN_OR_RETURN(const auto ledger, Ledger::Open(folder + "/ledger.sqlite", "small", 7));
  RETURN_IF_ERROR(ledger->BeginAttempt(absl::FromUnixSeconds(1000)).status());
  RETURN_IF_ERROR(ledger->BeginStage("warm", 0).status());
  for (int64_t s = 1; s <= kSftSteps; ++s) RETURN_IF_ERROR(Train(*ledger, s, "warm", false));
  RETURN_IF_ERROR(ledger->EndStage("warm", kSftSteps));
  RETURN_IF_ERROR(Measure(*ledger, "first", 0.25));
  RETURN_IF_ERROR(ledger->BeginStage("rl", kSftSteps).status());
  for (int64_t s = 1; s <= kRlSteps; ++s)
    RETURN_IF_ERROR(Train(*ledger, kSftSteps + s, "rl", true));
  RETURN_IF_ERROR(ledger->EndStage("rl", kSftSteps + kRlSteps));
  RETURN_IF_ERROR(Measure(*ledger, "last", 0.75));
  RETURN_IF_ERROR(Measure(*ledger, "also.none", 0.8));
  const Weights weights{.version = PolicyVersion(9), .step = kSftSteps + kRlSteps, .run = "small"};
  RETURN_IF_ERROR(ledger->RecordVersion(weights));
  return ledger->Beat(absl::FromUnixSeconds(1100));
}

}  // namespace
}  // namespace palimpsest::orchestrator

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_run FOLDER\n";
    return 2;
  }
  const absl::Status made = palimpsest::orchestrator::Make(argv[1]);
  if (!made.ok()) std::cerr << made << '\n';
  return made.ok() ? 0 : 1;
}
