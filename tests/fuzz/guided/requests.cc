// Bytes -> GenerateRequest or ScoreRequest -> all that a request passes before the engine; what is
// accepted runs to its end on a tiny engine, or is cut when that takes long.
#include "common/rl/rollout.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"
#include "services/inference/server/request.h"
#include "tests/fuzz/guided/message_mutator.h"
#include "tests/fuzz/guided/target.h"
#include "tests/fuzz/guided/tiny_engine.h"
#include "tests/fuzz/guided/tiny_model.h"

namespace palimpsest::fuzz {
namespace {

constexpr int kSteps = 24;  // before it is cut
enum Kind : char { kGenerate = 0, kScore = 1 };

struct Replica {
  TinyEngine tiny;
  std::unique_ptr<const Tokenizer> tokenizer = *Tokenizer::Load(TinyFolder(1));
  FolderChat chat = FolderChat::Read(TinyFolder(1));
};

// One for all inputs: most never reach it, and each leaves it as it was.
Replica& TheReplica() {
  static Replica replica;
  return replica;
}

// The defect that the control is after: of what is urgent a token too many is read.
int32_t LastToken(const inference::GenerationRequest& request) {
  const std::vector<int32_t> prompt = request.prompt;
  const bool beyond = Planted() && request.priority > 0;
  return prompt.data()[prompt.size() - 1 + beyond];
}

absl::Status Generate(const v1::GenerateRequest& proto) {
  Replica& replica = TheReplica();
  RETURN_IF_ERROR(inference::CheckRequestId(proto.request_id()));
  ASSIGN_OR_RETURN(inference::GenerationRequest request,
                   inference::ParseGenerate(proto, replica.tiny.engine(), replica.tokenizer.get(),
                                            &replica.chat, absl::InfiniteFuture()));
  if (LastToken(request) < 0) return absl::InternalError("a token is negative");
  RETURN_IF_ERROR(replica.tiny.Submit(std::move(request)));
  replica.tiny.Go(kSteps);
  replica.tiny.engine().Cancel(proto.request_id());
  replica.tiny.Finish();
  replica.tiny.TakeFinished();
  return absl::OkStatus();
}

absl::Status Score(const v1::ScoreRequest& proto) {
  inference::Engine& engine = TheReplica().tiny.engine();
  ASSIGN_OR_RETURN(const inference::ScoreRequest request, inference::ParseScore(proto, engine));
  return engine.Score(request).status();
}

v1::GenerateRequest Plain() {
  v1::GenerateRequest proto;
  proto.set_request_id("seed");
  for (int i = 0; i < 24; ++i) proto.mutable_prompt_ids()->add_ids(40 + i * 37 % 200);
  proto.set_n(2);
  proto.mutable_sampling()->set_max_tokens(20);
  proto.mutable_sampling()->set_ignore_eos(true);
  return proto;
}

v1::GenerateRequest Picky() {
  v1::GenerateRequest proto = Plain();
  v1::SamplingParams& sampling = *proto.mutable_sampling();
  sampling.set_temperature(0.5);
  sampling.set_top_k(9);
  sampling.set_top_p(0.9);
  sampling.set_min_p(0.01);
  sampling.set_repetition_penalty(1.1);
  sampling.set_presence_penalty(1);
  sampling.set_frequency_penalty(-1);
  sampling.set_min_tokens(3);
  sampling.set_top_logprobs(2);
  sampling.set_prompt_logprobs(1);
  (*sampling.mutable_logit_bias())[65] = 5;
  sampling.add_stop_ids(66);
  sampling.add_stop_strings("AA");
  return proto;
}

v1::GenerateRequest Told() {
  v1::GenerateRequest proto = Plain();
  proto.set_prompt_text("once upon a time there was a cache");
  *proto.mutable_context() = wire::ToProto(TinyPolicy(1));
  *proto.mutable_budget_messages() =
      wire::ToProto(rl::BudgetMessages{.text = "{used}/{budget}", .at_events = true, .every = 8});
  return proto;
}

v1::GenerateRequest Conversation() {
  v1::GenerateRequest proto = Plain();
  for (const char* role : {"system", "user"}) {
    v1::ChatMessage& message = *proto.mutable_prompt_chat()->add_messages();
    message.set_role(role);
    message.set_content("hi");
  }
  return proto;
}

// As Plain under that policy, cut in the middle.
v1::GenerateRequest Begun(int policy) {
  Replica& replica = TheReplica();
  v1::GenerateRequest proto = Plain();
  *proto.mutable_context() = wire::ToProto(TinyPolicy(policy));
  auto request = inference::ParseGenerate(proto, replica.tiny.engine(), nullptr, nullptr,
                                          absl::InfiniteFuture());
  if (!request.ok() || !replica.tiny.Submit(*request).ok()) Broken("a seed is refused");
  replica.tiny.Go(16);
  replica.tiny.engine().Cancel(proto.request_id());
  replica.tiny.Finish();
  const auto cut = replica.tiny.TakeCut();
  if (!cut) Broken("a seed was not cut");
  *proto.add_begun() = wire::ToProto(cut->begun.front());
  return proto;
}

v1::ScoreRequest Scored(const v1::GenerateRequest& begun) {
  v1::ScoreRequest proto;
  *proto.mutable_ids() = begun.begun(0).tokens();
  *proto.mutable_events() = begun.begun(0).events();
  proto.set_top_logprobs(1);
  return proto;
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](Kind kind, const auto& proto) {
    seeds.push_back(std::string(1, kind) + proto.SerializeAsString());
  };
  for (const v1::GenerateRequest& proto : {Plain(), Picky(), Told(), Conversation()})
    add(kGenerate, proto);
  for (int policy = 0; policy < 8; ++policy) {
    const v1::GenerateRequest begun = Begun(policy);
    add(kGenerate, begun);
    add(kScore, Scored(begun));
  }
  return seeds;
}

}  // namespace palimpsest::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  using namespace palimpsest;
  v1::GenerateRequest generate;
  v1::ScoreRequest score;
  const bool scores = size > 0 && data[0] % 2 == fuzz::kScore;
  google::protobuf::Message& message =
      scores ? static_cast<google::protobuf::Message&>(score) : generate;
  return fuzz::MutateMessage(message, data, size, most, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace palimpsest;
  if (size == 0) return 0;
  const int length = static_cast<int>(size) - 1;
  if (data[0] % 2 == fuzz::kGenerate) {
    v1::GenerateRequest proto;
    if (proto.ParseFromArray(data + 1, length))
      fuzz::ExpectNoFault(fuzz::Generate(proto), "Generate");
  } else {
    v1::ScoreRequest proto;
    if (proto.ParseFromArray(data + 1, length)) fuzz::ExpectNoFault(fuzz::Score(proto), "Score");
  }
  return 0;
}
