// Decoding as a client of a replica sees it, one gRPC stream each, measured by turns (turns.h).
// Usage: stream_bench HOST:PORT; job `decode` as of engine_bench.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tests/bench/turns.h"

namespace palimpsest {
namespace {

using bench::Json;
using bench::TokenClock;

constexpr absl::Duration kDeadline = absl::Minutes(30);  // of one stream on a slow machine

class Bench {
 public:
  explicit Bench(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::InferenceService::NewStub(std::move(channel))),
        life_(absl::ToUnixNanos(SystemClock().Now())) {}

  absl::Status Open() {
    v1::InferenceServiceGetServerInfoRequest request;
    request.set_revision(v1::CONTRACT_REVISION_CURRENT);
    v1::InferenceServiceGetServerInfoResponse response;
    RETURN_IF_ERROR(FromGrpc(stub_->GetServerInfo(MakeContext({}).get(), request, &response)));
    vocab_ = response.model().vocab();
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Decode(const Json& job) {
    RETURN_IF_ERROR(RunTogether(job, job.at("context"), 1).status());
    const int steps = job.at("steps");
    ASSIGN_OR_RETURN(const auto clock,
                     RunTogether(job, job.at("context").get<int>() + 1, steps + 1));
    return Json{{"seconds", clock->SecondsPerStep()}};
  }

 private:
  // Streams that are let go when the replica has taken all of them.
  absl::StatusOr<std::shared_ptr<TokenClock>> RunTogether(const Json& job, int context,
                                                          int tokens) {
    const int streams = job.at("streams"), turn = job.at("turn");
    const auto clock = std::make_shared<TokenClock>(streams, tokens);
    v1::InferenceServicePauseResponse paused;
    RETURN_IF_ERROR(FromGrpc(stub_->Pause(MakeContext({}).get(), {}, &paused)));
    absl::Mutex mu;
    int undecided = streams;
    std::vector<std::thread> readers;
    for (int s = 0; s < streams; ++s) {
      readers.emplace_back([&, s, prompt = bench::PromptOf(turn, s, context, vocab_)] {
        const auto decided = [&] {
          absl::MutexLock lock(&mu);
          --undecided;
        };
        clock->Fail(ReadStream(s, prompt, tokens, *clock, decided));
      });
    }
    {
      const auto all = [&] { return undecided == 0; };
      absl::MutexLock lock(&mu);
      mu.Await(absl::Condition(&all));
    }
    v1::InferenceServiceResumeResponse resumed;
    const absl::Status going = FromGrpc(stub_->Resume(MakeContext({}).get(), {}, &resumed));
    for (std::thread& reader : readers) reader.join();
    RETURN_IF_ERROR(going);
    RETURN_IF_ERROR(clock->Wait());
    return clock;
  }

  // `decided` is called once: the replica has accepted the stream, or it has failed.
  absl::Status ReadStream(int number, const std::vector<int32_t>& prompt, int tokens,
                          TokenClock& clock, const std::function<void()>& decided) {
    v1::GenerateRequest request;
    request.set_request_id(absl::StrFormat("bench-%d-%d", life_, requests_++));
    request.mutable_prompt_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
    request.set_stream_tokens(true);
    request.mutable_sampling()->set_max_tokens(tokens);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_ignore_eos(true);
    const auto context = MakeContext({});
    SetTimeout(*context, kDeadline);
    const auto stream = stub_->Generate(context.get(), request);
    absl::Status status;
    bool told = false;
    for (v1::GenerateResponse update; stream->Read(&update);) {
      if (!std::exchange(told, true)) decided();
      if (update.has_tokens()) clock.Note(number, update.tokens().ids_size());
      if (update.has_error()) status = absl::InternalError(update.error().message());
    }
    status.Update(FromGrpc(stream->Finish()));
    if (!told) decided();
    return status;
  }

  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const int64_t life_;  // request ids are of this process
  std::atomic<int> requests_ = 0;
  int vocab_ = 0;
};

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: stream_bench HOST:PORT\n");
    return 2;
  }
  const auto channel = MakeChannel(argv[1], {});
  absl::Status sound = channel.status();
  std::optional<Bench> bench;
  if (sound.ok()) sound = bench.emplace(*channel).Open();
  if (!sound.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[1], sound.ToString().c_str());
    return 1;
  }
  bench::ServeJobs({{"decode", [&](const Json& job) { return bench->Decode(job); }}});
  return 0;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) { return palimpsest::Main(argc, argv); }
