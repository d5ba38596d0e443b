// Bytes are read as what callers of an engine do: they ask for samples, open sessions, step,
// compact, fork and delete them, cancel, bring new weights and let time pass. In the end all has
// ended.
#include <fuzzer/FuzzedDataProvider.h>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "tests/fuzz/guided/target.h"
#include "tests/fuzz/guided/tiny_engine.h"
#include "tests/fuzz/guided/tiny_model.h"

namespace palimpsest::fuzz {
namespace {

using namespace inference;

constexpr int kMostDoings = 40;
constexpr int kLongestPrompt = 40, kLongestAnswer = 32;

class Callers {
 public:
  explicit Callers(FuzzedDataProvider& bytes) : bytes_(bytes), tiny_(Pool()) {}

  void DoAll() {
    for (int i = 0; i < kMostDoings && bytes_.remaining_bytes() > 0; ++i) DoOne();
    if (Planted() && forks_ > 0 && flips_ > 1 && deleted_ > 0) GetStuck();
    tiny_.Finish();
  }

 private:
  int Below(int n) { return bytes_.ConsumeIntegralInRange(0, n - 1); }

  // From what hardly holds anything, page by page and between.
  int64_t Pool() { return (4 + Below(14)) * kTinyPage + Below(3) * kTinyPage / 3; }

  void DoOne() {
    switch (Below(13)) {
      case 0:
        return Generate();
      case 1:
        return Open();
      case 2:
      case 3:
        return Step();
      case 4:
        return Compact();
      case 5:
        return Fork();
      case 6:
        return Delete();
      case 7:
        return Cancel();
      case 8:
        return NewWeights();
      case 9:
        return tiny_.clock().Move(absl::Milliseconds(1 << Below(16)));
      case 10:
        return tiny_.Go(1 + Below(24));
      case 11:
        return OpenFromLog();
      default:
        return GoOnWithCut();
    }
  }

  std::vector<int32_t> Words(int most) {
    const int length = Below(most + 1), kind = Below(3);  // some begin alike
    std::vector<int32_t> ids;
    for (int i = 0; i < length; ++i) ids.push_back((kind + 1) * (i * 37 + 40) % 256);
    return ids;
  }

  context::ContextPolicy Policy() {
    context::ContextPolicy policy = TinyPolicy(Below(kTinyPolicies));
    const int changes = Below(32);
    if (changes & 1) policy.reference_tokens = 1 + Below(20);
    if (changes & 2) policy.protect = Below(20);
    if (changes & 4) policy.stack = !policy.stack;
    if (changes & 8) policy.after_window = !policy.after_window;
    if (changes & 16) policy.parameters.holdout_every = 2 + Below(3);
    return policy;
  }

  GenerationRequest Request() {
    GenerationRequest r{.request_id = absl::StrFormat("r%d", asked_++)};
    r.client = Below(2) == 0 ? "a" : "b";
    r.sampling.max_tokens = 1 + Below(kLongestAnswer);
    r.sampling.seed = Below(4);
    r.sampling.ignore_eos = Below(2) == 0;
    r.sampling.temperature = Below(3);
    r.priority = Below(2);
    if (Below(4) == 0) r.deadline = tiny_.clock().Now() + absl::Milliseconds(1 << Below(12));
    return r;
  }

  void Generate() {
    GenerationRequest r = Request();
    r.prompt = Words(kLongestPrompt);
    r.n = 1 + Below(3);
    r.first_sample = Below(2);
    r.context = Policy();
    tiny_.Submit(std::move(r)).IgnoreError();
  }

  void Open() {
    SessionSpec spec{.request_id = absl::StrFormat("s%d", asked_),
                     .client = Below(2) == 0 ? "a" : "b",
                     .context = Policy(),
                     .seed = static_cast<uint64_t>(Below(4)),
                     .prompt = Words(kLongestPrompt)};
    if (Below(2) == 0) spec.ttl = absl::Milliseconds(1 << Below(16));
    Create(std::move(spec)).IgnoreError();
  }

  absl::Status Create(SessionSpec spec) {
    const auto made = tiny_.engine().sessions()->Create(spec);
    ExpectNoFault(made.status(), "CreateSession");
    if (!made.ok()) return made.status();
    sessions_.push_back(made->id);
    contexts_[made->id] = spec.context;
    return absl::OkStatus();
  }

  // Where turns begin is read from the log, which does not tell of every step.
  void OpenFromLog() {
    auto written = tiny_.TakeSessionLog();
    if (!written) return;
    const rl::Rollout& log = written->log;
    const context::ContextPolicy& context = contexts_[written->session];
    const bool full = std::ssize(log.tokens) == tiny_.engine().model().max_position;
    const bool turns = std::holds_alternative<context::Turns>(context.trigger);
    SessionSpec spec{.request_id = absl::StrFormat("l%d", asked_++),
                     .client = "a",
                     .context = context,
                     .seed = log.seed,
                     .prompt = {log.tokens.begin(), log.tokens.begin() + log.prompt_tokens}};
    spec.begun = log;
    const absl::Status status = Create(std::move(spec));
    if (absl::IsInvalidArgument(status) && !full && !turns)
      Broken("a session that was cut may not go on: " + status.ToString());
  }

  // As its caller knows it; a session that is gone by now is asked for, too.
  std::optional<SessionInfo> Any() {
    if (sessions_.empty()) return std::nullopt;
    const std::string& id = sessions_[Below(static_cast<int>(sessions_.size()))];
    for (SessionInfo& info : tiny_.engine().sessions()->List(""))
      if (info.id == id) return std::move(info);
    return SessionInfo{.id = id};
  }

  void Step() {
    const auto session = Any();
    if (!session) return;
    GenerationRequest r = Request();
    r.prompt = Words(12);
    r.step = SessionStep{.id = session->id, .expected_tokens = session->tokens};
    tiny_.Submit(std::move(r)).IgnoreError();
  }

  void Compact() {
    const auto session = Any();
    if (!session) return;
    GenerationRequest r = Request();
    const int begin = Below(64);
    r.step = SessionStep{.id = session->id,
                         .expected_tokens = session->tokens,
                         .compact = context::Range{begin, begin + 1 + Below(24)}};
    tiny_.Submit(std::move(r)).IgnoreError();
  }

  void Fork() {
    const auto session = Any();
    if (!session) return;
    std::vector<uint64_t> seeds;
    for (int i = Below(2); i >= 0; --i) seeds.push_back(static_cast<uint64_t>(Below(4)));
    const auto made =
        tiny_.engine().sessions()->Fork(absl::StrFormat("f%d", asked_++ / 2), session->id, seeds);
    ExpectNoFault(made.status(), "ForkSession");
    if (!made.ok()) return;
    for (const SessionInfo& fork : *made) {
      sessions_.push_back(fork.id);
      contexts_[fork.id] = contexts_[session->id];
    }
    ++forks_;
  }

  void Delete() {
    const auto session = Any();
    if (session) deleted_ += tiny_.engine().sessions()->Delete(session->id);
  }

  void Cancel() {
    if (Below(4) == 0) {
      tiny_.engine().AbortAll(Below(2) == 0 ? "a" : "", "fuzz");
    } else {
      tiny_.engine().Cancel(absl::StrFormat("r%d", Below(asked_ + 1)));
    }
  }

  void NewWeights() {
    ++flips_;
    tiny_.UpdateWeights(1 + flips_ % 2, PolicyVersion(1 + flips_),
                        static_cast<WeightsMode>(Below(3)));
  }

  void GoOnWithCut() {
    auto cut = tiny_.TakeCut();
    if (!cut) return;
    cut->request_id = absl::StrFormat("r%d", asked_++);
    const absl::Status status = tiny_.Submit(*std::move(cut));
    if (absl::IsInvalidArgument(status))
      Broken("a sample that was cut may not go on: " + status.ToString());
  }

  // The defect that the control is after: a request that nobody works on.
  void GetStuck() {
    tiny_.Submit({.request_id = "stuck", .prompt = {1}}).IgnoreError();
    tiny_.Freeze();
  }

  FuzzedDataProvider& bytes_;
  TinyEngine tiny_;
  std::vector<std::string> sessions_;
  std::map<std::string, context::ContextPolicy> contexts_;  // of sessions, those that are gone too
  int asked_ = 0, forks_ = 0, flips_ = 0, deleted_ = 0;
};

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  RandomStream stream(6);
  for (int i = 0; i < 24; ++i) {
    std::string& seed = seeds.emplace_back();
    for (int64_t n = 20 + stream.Below(60); n > 0; --n)
      seed.push_back(static_cast<char>(stream.Below(256)));
  }
  return seeds;
}

}  // namespace palimpsest::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider bytes(data, size);
  palimpsest::fuzz::Callers(bytes).DoAll();
  return 0;
}
