#include "tools/eval/episode.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/rl/episode.h"
#include "common/tokenizer/turn_framing.h"
#include "tools/eval/costs.h"

namespace palimpsest::tools::eval {
namespace {

// By the server's tokenizer, in the terms of the prompt.
class PeerEncoder final : public TurnEncoder {
 public:
  PeerEncoder(Peers& peers, const Saying& saying) : peers_(peers), saying_(saying) {}

  absl::StatusOr<std::vector<int32_t>> Text(const std::string& text) const override {
    return peers_.Tokenize({.text = text});
  }
  absl::StatusOr<std::vector<int32_t>> Conversation(const Chat& chat) const override {
    Saying said{.chat = chat, .chat_template = saying_.chat_template};
    said.chat.enable_thinking = saying_.chat.enable_thinking;
    said.chat.date_string = saying_.chat.date_string;
    return peers_.Tokenize(said);
  }

 private:
  Peers& peers_;
  const Saying& saying_;
};

// Deletes its session at the end of its life, however that comes.
class OpenSession {
 public:
  OpenSession(Peers& peers, std::string id) : peers_(peers), id_(std::move(id)) {}
  ~OpenSession() { peers_.DeleteSession(id_); }
  OpenSession(const OpenSession&) = delete;
  OpenSession& operator=(const OpenSession&) = delete;
  const std::string& id() const { return id_; }

 private:
  Peers& peers_;
  const std::string id_;
};

// One episode, from its first token to its last. Lives for one Play.
class Player {
 public:
  Player(Peers& peers, const ModelFacts& model, const Order& order)
      : peers_(peers),
        model_(model),
        order_(order),
        encoder_(peers, order.asked.question.saying),
        bounds_{.max_turns = order.asked.question.max_turns,
                .max_response = *order.sampling.max_tokens,
                .max_position = SequenceEnd(order.policy, model)},
        view_{.tokens = static_cast<int32_t>(order.asked.ids.size())},
        episode_(order.asked.question.episode) {}

  absl::Status Play() {
    if (!rl::NextResponse(view_, bounds_)) return absl::OkStatus();
    const Saying& saying = order_.asked.question.saying;
    ASSIGN_OR_RETURN(
        const TurnFraming framing,
        TurnFraming::Of(encoder_, {saying.text, saying.chat.messages}, model_.stop_ids));
    ASSIGN_OR_RETURN(
        const std::string id,
        peers_.CreateSession({.request_id = order_.request_id,
                              .prompt = order_.asked.ids,
                              .context = order_.policy.context,
                              .seed = MixSeed({order_.sampling.seed, Meaning("session"),
                                               static_cast<uint64_t>(order_.sample)})}));
    const OpenSession session(peers_, id);
    SessionStep step{.session = session.id(),
                     .expected_tokens = view_.tokens,
                     .sampling = order_.sampling,
                     .messages = order_.policy.messages};
    for (auto room = rl::NextResponse(view_, bounds_); room;
         room = rl::NextResponse(view_, bounds_)) {
      step.request_id = absl::StrFormat("%s.t%d", order_.request_id, view_.responses);
      step.sampling.max_tokens = *room;
      RETURN_IF_ERROR(Respond(step));
      if (!view_.starved) RETURN_IF_ERROR(Observe(framing, step));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Finish(Answer& answer) && {
    answer.finish = view_.done ? "stop" : "length";
    answer.responses = view_.responses;
    rl::Rollout& rollout = written_.rollout;
    if (rollout.tokens.empty()) return std::move(episode_);
    rollout.seconds = seconds_;
    RETURN_IF_ERROR(AddCost(rollout, answer));
    const auto behind = rollout.tokens.begin() + rollout.prompt_tokens;
    if (behind == rollout.tokens.end()) return std::move(episode_);
    ASSIGN_OR_RETURN(answer.text, peers_.Detokenize({behind, rollout.tokens.end()}));
    return std::move(episode_);
  }

 private:
  // The model's turn.
  absl::Status Respond(SessionStep& step) {
    ASSIGN_OR_RETURN(written_, peers_.StepSession(step));
    const auto said = step.expected_tokens + static_cast<int32_t>(step.new_ids.size());
    seconds_ += written_.rollout.seconds;
    step.expected_tokens = static_cast<int32_t>(written_.rollout.tokens.size());
    view_.starved = step.expected_tokens == said;
    if (!view_.starved) ++view_.responses;
    return absl::OkStatus();
  }

  // The environment's turn.
  absl::Status Observe(const TurnFraming& framing, SessionStep& step) {
    ASSIGN_OR_RETURN(Turn turn, peers_.Step(episode_, written_.text));
    episode_ = std::move(turn.episode);
    view_.done = turn.done;
    if (turn.done) return absl::OkStatus();
    ASSIGN_OR_RETURN(step.new_ids,
                     framing.ObservationIds(turn.messages, written_.rollout.tokens.back()));
    view_.tokens = step.expected_tokens + static_cast<int32_t>(step.new_ids.size());
    return absl::OkStatus();
  }

  Peers& peers_;
  const ModelFacts& model_;
  const Order& order_;
  const PeerEncoder encoder_;
  const rl::EpisodeBounds bounds_;
  rl::EpisodeView view_;
  std::string episode_;
  Written written_;  // of the last step
  double seconds_ = 0;
};

}  // namespace

absl::StatusOr<std::string> PlayEpisode(Peers& peers, const ModelFacts& model, const Order& order,
                                        Answer& answer) {
  Player player(peers, model, order);
  RETURN_IF_ERROR(player.Play());
  return std::move(player).Finish(answer);
}

}  // namespace palimpsest::tools::eval
