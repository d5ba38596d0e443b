// Bytes -> Rollout -> FromProto, CheckLog; what is accepted is packed for replay, scored, and goes
// on as a sample that was cut.
#include "common/attention/packed_batch.h"
#include "common/base/random.h"
#include "common/context/log.h"
#include "common/wire/rollout.h"
#include "tests/fuzz/guided/message_mutator.h"
#include "tests/fuzz/guided/target.h"
#include "tests/fuzz/guided/tiny_engine.h"
#include "tests/fuzz/guided/tiny_model.h"
#include "tests/unit/common/wire/generate.h"

namespace palimpsest::fuzz {
namespace {

constexpr int kMore = 6;           // tokens sampled behind a log's last one
constexpr uint8_t kNoDigests = 1;  // bit of the first byte; the others are the policy

TinyEngine& TheEngine() {
  static TinyEngine engine;
  return engine;
}

// The defect that the control is after: a copy of logs of several events is never freed.
void Remember(const rl::Rollout& r) {
  if (!Planted() || r.events.size() < 2 || r.greedy == r.truncated_sampling) return;
  auto* const lost = new rl::Rollout(r);
  lost->seed = 0;
}

bool CanBeTiny(const rl::Rollout& r) {
  for (const int32_t token : r.tokens)
    if (token >= TinyConfig().vocab) return false;
  for (const context::Event& event : r.events)
    if (!(event.kept.shape() == TinyShape())) return false;
  return r.tokens.size() < static_cast<size_t>(TinyConfig().max_position);
}

// What replay makes of a log that was found right.
void Pack(const rl::Rollout& r, context::Shape shape) {
  attention::ReplaySequence sequence{
      .tokens = r.tokens, .prompt_tokens = 0, .rows = static_cast<int32_t>(r.tokens.size()) - 1};
  for (const context::Event& event : r.events) sequence.events.push_back({.event = event});
  const auto packed = attention::PackedBatch::Create({&sequence, 1}, shape);
  if (!packed.ok()) Broken("CheckLog accepts what replay refuses: " + packed.status().ToString());
  if (packed->rows() != sequence.rows) Broken("rows are lost");
}

void GoOn(const rl::Rollout& r, int policy) {
  TinyEngine& tiny = TheEngine();
  inference::GenerationRequest request{
      .request_id = "log",
      .prompt = {r.tokens.begin(), r.tokens.begin() + r.prompt_tokens},
      .first_sample = std::min(r.sample, INT32_MAX - 1),
      .context = TinyPolicy(policy),
      .begun = {r}};
  const auto sampled = std::count(r.origins.begin(), r.origins.end(), rl::Origin::kSampled);
  request.sampling.max_tokens = static_cast<int32_t>(sampled) + kMore;
  request.sampling.seed = r.seed;
  request.sampling.temperature = r.greedy ? 0 : r.temperature;
  request.sampling.ignore_eos = true;
  if (!tiny.Submit(std::move(request)).ok()) return;
  tiny.Finish();
  for (const rl::Rollout& whole : tiny.TakeFinished()) {
    if (!std::equal(r.tokens.begin(), r.tokens.end(), whole.tokens.begin()) ||
        whole.events.size() < r.events.size())
      Broken("a log that goes on forgets what it was");
  }
}

// Logs of the tiny engine, whole and cut.
std::vector<rl::Rollout> Real(int policy) {
  TinyEngine& tiny = TheEngine();
  inference::GenerationRequest request{.request_id = "seed", .context = TinyPolicy(policy)};
  for (int i = 0; i < 12; ++i) request.prompt.push_back(40 + i * 37 % 200);
  request.sampling.max_tokens = 60;
  request.sampling.ignore_eos = true;
  std::vector<rl::Rollout> logs;
  for (const int steps : {40, 100}) {
    if (!tiny.Submit(request).ok()) Broken("a seed is refused");
    tiny.Go(steps);
    tiny.engine().Cancel("seed");
    tiny.Finish();
    for (rl::Rollout& r : tiny.TakeFinished()) logs.push_back(std::move(r));
    if (auto cut = tiny.TakeCut()) logs.push_back(cut->begun.front());
  }
  return logs;
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](int policy, const rl::Rollout& r) {
    const std::string bytes = wire::ToProto(r).SerializeAsString();
    for (const int digests : {0, 1})
      seeds.push_back(std::string(1, static_cast<char>(policy << 1 | digests)) + bytes);
  };
  for (const int policy : {0, 1, 2, 3, 4, 5, 6, 7, 11, 12})
    for (const rl::Rollout& r : Real(policy)) add(policy, r);
  RandomStream stream(11);
  for (int i = 0; i < 4; ++i) add(0, wire::RandomRollout(stream));
  return seeds;
}

}  // namespace palimpsest::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  palimpsest::v1::Rollout message;
  return palimpsest::fuzz::MutateMessage(message, data, size, most, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace palimpsest;
  v1::Rollout proto;
  if (size == 0 || !proto.ParseFromArray(data + 1, static_cast<int>(size) - 1)) return 0;
  if (data[0] & fuzz::kNoDigests)
    for (v1::CompactionEvent& event : *proto.mutable_events()) event.clear_digest();
  const auto r = wire::FromProto(proto);
  if (!r.ok()) return 0;
  const context::Shape shape =
      r->events.empty() ? fuzz::TinyShape() : r->events.front().kept.shape();
  if (!context::CheckLog(shape, r->tokens, r->events).ok() || r->tokens.size() < 2) return 0;
  fuzz::Remember(*r);
  fuzz::Pack(*r, shape);
  if (!fuzz::CanBeTiny(*r)) return 0;
  const inference::ScoreRequest score{
      .tokens = r->tokens, .events = r->events, .temperature = r->temperature};
  fuzz::ExpectNoFault(fuzz::TheEngine().engine().Score(score).status(), "Score");
  fuzz::GoOn(*r, data[0] >> 1);
  return 0;
}
