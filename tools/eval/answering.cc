#include "tools/eval/answering.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "tools/eval/costs.h"
#include "tools/eval/episode.h"

namespace palimpsest::tools::eval {
namespace {

// Tokens that both begin with.
int32_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const auto ends = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<int32_t>(ends.first - a.begin());
}

std::string FinishName(rl::FinishReason reason) {
  return reason == rl::FinishReason::kStop ? "stop" : "length";
}

class PeerAsker final : public Asker {
 public:
  PeerAsker(const Plan& plan, const ModelFacts& model, Peers& peers, const std::string& id)
      : plan_(plan), model_(model), peers_(peers), id_(id), questions_(peers) {}

  absl::StatusOr<Answer> Ask(const AnswerKey& key, const Policy& policy, int attempt) override {
    ASSIGN_OR_RETURN(const auto asked, questions_.Get(key));
    const Question& question = asked->question;
    ASSIGN_OR_RETURN(const Order order, OrderOf(key, policy, attempt, *asked));
    Answer answer{.key = key, .tags = question.tags, .finish = "length"};
    std::string episode = question.episode;
    if (question.max_turns > 0) {
      ASSIGN_OR_RETURN(episode, PlayEpisode(peers_, model_, order, answer));
    } else if (policy.aggregation.rounds > 0) {
      RETURN_IF_ERROR(WriteAggregated(order, answer));
    } else {
      RETURN_IF_ERROR(Write(CallOf(order), policy, answer));
    }
    // Turns were stepped: their responses stand in the episode.
    const std::string response = question.max_turns > 0 ? "" : answer.text;
    ASSIGN_OR_RETURN(Verdict verdict, peers_.Score(episode, response, answer.finish != "stop"));
    answer.reward = verdict.reward;
    answer.reason = std::move(verdict.reason);
    answer.parts = std::move(verdict.parts);
    return answer;
  }

 private:
  absl::StatusOr<Order> OrderOf(const AnswerKey& key, const Policy& policy, int attempt,
                                const Asked& asked) const {
    const int32_t most = plan_.max_tokens > 0 ? plan_.max_tokens : asked.question.max_response;
    if (most <= 0) {
      return absl::InvalidArgumentError(
          "the environment does not say how long an answer may be; give --max-tokens");
    }
    const uint64_t name = MixSeed(
        {Meaning(key.task), uint64_t(key.index), Meaning(key.policy), uint64_t(key.sample)});
    Order order{.asked = asked,
                .policy = policy,
                .request_id = absl::StrFormat("%s-%016x-%d", id_, name, attempt),
                .sample = key.sample,
                .sampling = {.temperature = plan_.temperature, .max_tokens = most}};
    order.sampling.stop_strings = asked.question.stops;
    order.sampling.seed = MixSeed(
        {key.seed, Meaning("eval"), Meaning(key.task), Meaning(key.split), uint64_t(key.index)});
    return order;
  }

  // Attempts, of which the last one made is the answer; the costs are those of all.
  absl::Status WriteAggregated(const Order& order, Answer& answer) {
    const uint64_t seed =
        MixSeed({order.sampling.seed, Meaning("aggregation"), uint64_t(order.sample)});
    const auto make = [&](const AttemptName& name,
                          const std::vector<std::string>& read) -> absl::StatusOr<std::string> {
      GenerateCall call = CallOf(order);
      call.request_id = absl::StrFormat("%s.r%d.%d", order.request_id, name.round, name.member);
      // Attempts of the first round draw what samples of the bare question draw.
      call.sample = order.sample * order.policy.aggregation.population + name.member;
      if (name.round > 0) {
        ASSIGN_OR_RETURN(call.prompt, ReadingIds(order.asked.question.saying, read));
        call.sampling.seed = MixSeed({order.sampling.seed, uint64_t(name.round)});
        // What is read may be compacted, the question not.
        if (!call.context.protect) {
          call.context.protect = CommonPrefix(order.asked.ids, call.prompt);
        }
      }
      RETURN_IF_ERROR(Write(std::move(call), order.policy, answer));
      return answer.text;
    };
    return Aggregate(order.policy.aggregation, seed, make).status();
  }

  absl::StatusOr<std::vector<int32_t>> ReadingIds(Saying saying,
                                                  const std::vector<std::string>& read) {
    std::string& question =
        saying.conversation() ? saying.chat.messages.back().content : saying.text;
    question = WithAttempts(question, read);
    return peers_.Tokenize(saying);
  }

  static GenerateCall CallOf(const Order& order) {
    return {.request_id = order.request_id,
            .prompt = order.asked.ids,
            .sample = order.sample,
            .sampling = order.sampling,
            .context = order.policy.context,
            .messages = order.policy.messages};
  }

  // One response; an empty one where the prompt leaves no room for a token, as the policy's length
  // or the model's positions end there.
  absl::Status Write(GenerateCall call, const Policy& policy, Answer& answer) {
    const int32_t room = SequenceEnd(policy, model_) - static_cast<int32_t>(call.prompt.size());
    answer.text.clear();
    answer.finish = "length";
    if (room <= 0) return absl::OkStatus();
    call.sampling.max_tokens = std::min(room, *call.sampling.max_tokens);
    ASSIGN_OR_RETURN(Written written, peers_.Generate(call));
    RETURN_IF_ERROR(AddCost(written.rollout, answer));
    ++answer.responses;
    answer.text = std::move(written.text);
    answer.finish = FinishName(written.rollout.finish_reason);
    return absl::OkStatus();
  }

  const Plan& plan_;
  const ModelFacts& model_;
  Peers& peers_;
  const std::string id_;
  Questions questions_;
};

}  // namespace

std::unique_ptr<Asker> MakeAsker(const Plan& plan, const ModelFacts& model, Peers& peers,
                                 const std::string& id) {
  return std::make_unique<PeerAsker>(plan, model, peers, id);
}

}  // namespace palimpsest::tools::eval
