// The engine of a replica in this process, bf16, measured by turns (turns.h).
// Usage: engine_bench MODEL_FOLDER THREADS KV_POOL_MIB; jobs: tests/bench/README.md.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/model/huge_pages.h"
#include "services/inference/engine/engine_factory.h"
#include "tests/bench/read_rate.h"
#include "tests/bench/turns.h"

namespace palimpsest::inference {
namespace {

using bench::Json;
using bench::TokenClock;

// One stream, told to a clock. What its end says stands here then.
class Stream final : public GenerationSink {
 public:
  Stream(std::shared_ptr<TokenClock> clock, int number)
      : clock_(std::move(clock)), number_(number) {}
  void OnTokens(TokenChunk chunk) override {
    top.insert(top.end(), chunk.top.begin(), chunk.top.end());
    ids.insert(ids.end(), chunk.ids.begin(), chunk.ids.end());
    clock_->Note(number_ + chunk.sample, static_cast<int>(chunk.ids.size()));
  }
  void OnEvent(int32_t, const context::Event& event) override {
    ++events;
    event_seconds += event.seconds;
  }
  void OnFinished(Finished) override {}
  void OnFailure(Failure failure) override { clock_->Fail(failure.status); }

  std::vector<int32_t> ids;
  std::vector<Alternatives> top;
  int events = 0;
  double event_seconds = 0;

 private:
  std::shared_ptr<TokenClock> clock_;
  const int number_;
};

class Bench {
 public:
  Bench(Engine& engine, const std::atomic<int>& preempted)
      : engine_(engine), preempted_(preempted) {}

  // Prompts that nobody has seen: seconds until the last one has its first token.
  absl::StatusOr<Json> Prefill(const Json& job) {
    absl::Time begin;
    ASSIGN_OR_RETURN(const auto clock, RunTogether(job, job.at("context"), 1, begin));
    return Json{{"seconds", clock->SecondsToFirst(begin)}};
  }

  // The prompts' KV is in the cache when the streams begin, so all of them decode from the first
  // step on, each from pages of its own.
  absl::StatusOr<Json> Decode(const Json& job) {
    absl::Time begin;
    RETURN_IF_ERROR(RunTogether(job, job.at("context"), 1, begin).status());
    const int steps = job.at("steps");
    ASSIGN_OR_RETURN(const auto clock,
                     RunTogether(job, job.at("context").get<int>() + 1, steps + 1, begin));
    if (clock->early() > 0) {
      return absl::FailedPreconditionError(
          absl::StrFormat("%d tokens came before every stream had its first: the cache lost a "
                          "prompt, KV_POOL_MIB is too small",
                          clock->early()));
    }
    return Json{{"seconds", clock->SecondsPerStep()}};
  }

  // `samples` rollouts of one prompt under kv_budget, or without compaction when `budget` is 0.
  absl::StatusOr<Json> Rollouts(const Json& job) {
    const int samples = job.at("samples"), tokens = job.at("tokens"), budget = job.at("budget");
    GenerationRequest request = Request(job.at("turn"), 0, job.at("context"), tokens);
    request.n = samples;
    request.sampling.temperature = 1;
    if (budget > 0) {
      request.context = {.trigger = context::KvBudget{.budget = budget,
                                                      .window = job.at("window"),
                                                      .keep_ratio = job.at("keep_ratio"),
                                                      .early = job.value("early", 0.0)},
                         .reference_tokens = job.at("reference_tokens")};
      if (job.contains("protect")) request.context.protect = job.at("protect").get<int>();
    }
    const int before = preempted_;
    const auto clock = std::make_shared<TokenClock>(samples, tokens);
    const auto stream = std::make_shared<Stream>(clock, 0);
    const absl::Time begin = SystemClock().Now();
    RETURN_IF_ERROR(engine_.Submit(std::move(request), stream));
    RETURN_IF_ERROR(clock->Wait());
    return Json{{"seconds", absl::ToDoubleSeconds(SystemClock().Now() - begin)},
                {"events", stream->events},
                {"event_seconds", stream->event_seconds},
                {"preempted", preempted_ - before}};
  }

  // Greedy tokens behind `ids` and the likeliest alternatives of each.
  absl::StatusOr<Json> Greedy(const Json& job) {
    GenerationRequest request = Request(0, 0, 1, job.at("steps"));
    request.prompt = job.at("ids").get<std::vector<int32_t>>();
    request.sampling.top_logprobs = job.at("top");
    const auto clock = std::make_shared<TokenClock>(1, job.at("steps").get<int>());
    const auto stream = std::make_shared<Stream>(clock, 0);
    RETURN_IF_ERROR(engine_.Submit(std::move(request), stream));
    RETURN_IF_ERROR(clock->Wait());
    Json top = Json::array();
    for (const Alternatives& a : stream->top)
      top.push_back({{"ids", a.ids}, {"logprobs", a.logprobs}});
    return Json{{"ids", stream->ids}, {"top", top}};
  }

 private:
  GenerationRequest Request(int turn, int stream, int context, int tokens) {
    GenerationRequest request{
        .request_id = absl::StrFormat("bench-%d", requests_++),
        .prompt = bench::PromptOf(turn, stream, context, engine_.model().vocab)};
    request.sampling.max_tokens = tokens;
    request.sampling.ignore_eos = true;
    request.sampling.temperature = 0;
    return request;
  }

  // Streams that wait until all are there; `begin`: when they were let go.
  absl::StatusOr<std::shared_ptr<TokenClock>> RunTogether(const Json& job, int context, int tokens,
                                                          absl::Time& begin) {
    const int streams = job.at("streams");
    const auto clock = std::make_shared<TokenClock>(streams, tokens);
    engine_.Pause();
    absl::Status sound;
    for (int s = 0; s < streams; ++s)
      sound.Update(engine_.Submit(Request(job.at("turn"), s, context, tokens),
                                  std::make_shared<Stream>(clock, s)));
    begin = SystemClock().Now();
    engine_.Resume();
    RETURN_IF_ERROR(sound);
    RETURN_IF_ERROR(clock->Wait());
    return clock;
  }

  Engine& engine_;
  const std::atomic<int>& preempted_;
  int requests_ = 0;
};

absl::StatusOr<Json> Read(const Json& job, int threads) {
  return Json{{"bytes_per_s", bench::ReadRate(job.at("bytes"), threads, job.at("times"))}};
}

int Main(int argc, char** argv) {
  const int threads = argc == 4 ? std::atoi(argv[2]) : 0, pool = argc == 4 ? std::atoi(argv[3]) : 0;
  if (threads < 1 || pool < 1) {
    std::fprintf(stderr, "usage: engine_bench MODEL_FOLDER THREADS KV_POOL_MIB, both > 0\n");
    return 2;
  }
  std::atomic<int> preempted = 0;
  EngineObserver observer;
  observer.preempted = [&] { ++preempted; };
  auto engine = MakeEngine({.model_folder = argv[1],
                            .version = PolicyVersion(1),
                            .dtype = "bfloat16",
                            .threads = threads,
                            .limits = {.kv_pool_bytes = int64_t{pool} << 20},
                            .observer = std::move(observer)});
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
    return 1;
  }
  Bench bench(**engine, preempted);
  bench::ServeJobs({{"prefill", [&](const Json& job) { return bench.Prefill(job); }},
                    {"decode", [&](const Json& job) { return bench.Decode(job); }},
                    {"rollouts", [&](const Json& job) { return bench.Rollouts(job); }},
                    {"greedy", [&](const Json& job) { return bench.Greedy(job); }},
                    {"read", [&](const Json& job) { return Read(job, threads); }}});
  return 0;
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::inference::Main(argc, argv);
}
