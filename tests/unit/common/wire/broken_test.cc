#include <cstring>
#include <functional>
#include <limits>

#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"
#include "google/protobuf/stubs/logging.h"
#include "gtest/gtest.h"
#include "tests/unit/common/wire/generate.h"

// Tables of messages broken in one place each; the refusal begins with that place.
namespace palimpsest::wire {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int32_t kHuge = std::numeric_limits<int32_t>::max();

template <class Message>
struct Case {
  const char* place;
  std::function<void(Message&)> breaks;
};

template <class Message>
void ExpectRefused(const Message& whole, const std::vector<Case<Message>>& cases) {
  ASSERT_TRUE(FromProto(whole).ok()) << FromProto(whole).status();
  for (const Case<Message>& c : cases) {
    Message message = whole;
    c.breaks(message);
    const absl::Status status = FromProto(message).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.place;
    const std::string text(status.message());
    const char next = text.size() > strlen(c.place) ? text[strlen(c.place)] : '\0';
    EXPECT_TRUE(text.rfind(c.place, 0) == 0 && (next == ':' || next == '='))
        << c.place << " / " << text;
  }
}

// 2 layers x 2 heads, window [2, 12): 4 bitmaps of 2 bytes.
v1::CompactionEvent WholeEvent() {
  RandomStream stream(7);
  context::Event event = RandomEvent(stream, {2, 2}, 20);
  event.window = {2, 12};
  event.method = context::Method::kAttentionMatching;
  event.parameters = {};
  event.reference = {0, 20};
  event.kept = context::KeptPositions({2, 2});
  for (int head = 0; head < 4; ++head) event.kept.AddHead(std::vector<int32_t>{2, 5, 11});
  event.digest.emplace();
  event.quality = {0.1, 0.1, 1e-9, {}, {}};
  return ToProto(event);
}

TEST(BrokenTest, EventsAreRefusedByThePlaceThatIsBroken) {
  using E = v1::CompactionEvent;
  ExpectRefused<E>(
      WholeEvent(),
      {
          {"event.at", [](E& e) { e.set_at(-1); }},
          {"event.window", [](E& e) { e.clear_window(); }},
          {"event.window", [](E& e) { e.mutable_window()->set_begin(-1); }},
          {"event.window", [](E& e) { e.mutable_window()->set_begin(12); }},
          {"event.window", [](E& e) { e.mutable_window()->set_begin(13); }},
          {"event.window", [](E& e) { e.mutable_window()->set_end(21); }},
          {"event.reference", [](E& e) { e.clear_reference(); }},
          {"event.reference", [](E& e) { e.mutable_reference()->set_end(21); }},
          {"event.reference", [](E& e) { e.mutable_reference()->set_begin(-4); }},
          {"event.method", [](E& e) { e.set_method(v1::COMPACTION_METHOD_UNSPECIFIED); }},
          {"event.method", [](E& e) { e.set_method(static_cast<v1::CompactionMethod>(4)); }},
          {"event.method", [](E& e) { e.set_method(static_cast<v1::CompactionMethod>(257)); }},
          {"event.method", [](E& e) { e.set_method(static_cast<v1::CompactionMethod>(-1)); }},
          {"event.parameters.mu", [](E& e) { e.clear_parameters(); }},
          {"event.parameters.mu", [](E& e) { e.mutable_parameters()->set_mu(kNan); }},
          {"event.parameters.mu", [](E& e) { e.mutable_parameters()->set_mu(0); }},
          {"event.parameters.lambda", [](E& e) { e.mutable_parameters()->clear_lambda(); }},
          {"event.parameters.lambda", [](E& e) { e.mutable_parameters()->set_lambda(-1); }},
          {"event.parameters.log_lower", [](E& e) { e.mutable_parameters()->set_log_lower(1); }},
          {"event.parameters.log_lower", [](E& e) { e.mutable_parameters()->clear_log_lower(); }},
          {"event.parameters.log_upper", [](E& e) { e.mutable_parameters()->set_log_upper(kNan); }},
          {"event.parameters.log_upper", [](E& e) { e.mutable_parameters()->clear_log_upper(); }},
          {"event.parameters.seed", [](E& e) { e.mutable_parameters()->clear_seed(); }},
          {"event.parameters.holdout_every",
           [](E& e) { e.mutable_parameters()->set_holdout_every(1); }},
          {"event.parameters.holdout_every",
           [](E& e) { e.mutable_parameters()->clear_holdout_every(); }},
          {"event.parameters.chooser", [](E& e) { e.mutable_parameters()->clear_chooser(); }},
          {"event.parameters.chooser",
           [](E& e) { e.mutable_parameters()->set_chooser(v1::COMPACTION_CHOOSER_RECENT); }},
          {"event.parameters.chooser",
           [](E& e) {
             e.mutable_parameters()->set_chooser(static_cast<v1::CompactionChooser>(99));
           }},
          {"event.parameters.reference_kind",
           [](E& e) { e.mutable_parameters()->clear_reference_kind(); }},
          {"event.kept", [](E& e) { e.clear_kept(); }},
          {"event.kept", [](E& e) { e.set_layers(0); }},
          {"event.kept", [](E& e) { e.set_layers(-2); }},
          {"event.kept", [](E& e) { e.set_kv_heads(3); }},
          {"event.kept", [](E& e) { e.set_layers(kHuge), e.set_kv_heads(kHuge); }},
          {"event.kept", [](E& e) { e.mutable_kept()->push_back('\0'); }},
          {"event.kept", [](E& e) { e.mutable_kept()->back() = '\x04'; }},  // past the window
          {"event.kept",
           [](E& e) {
             e.set_at(kHuge);
             e.mutable_window()->set_end(kHuge);
           }},
          {"event.digest", [](E& e) { e.mutable_digest()->pop_back(); }},
          {"event.digest", [](E& e) { e.mutable_digest()->front() = 'G'; }},
          {"event.quality.mass_error", [](E& e) { e.mutable_quality()->set_mass_error(kNan); }},
          {"event.quality.output_error", [](E& e) { e.mutable_quality()->set_output_error(-1); }},
          {"event.quality.kkt_residual", [](E& e) { e.mutable_quality()->set_kkt_residual(kNan); }},
          {"event.quality.holdout_mass_error",
           [](E& e) { e.mutable_quality()->set_holdout_mass_error(0.1); }},
          {"event.duration_seconds", [](E& e) { e.set_duration_seconds(kNan); }},
      });
}

// P = 4 of 24 tokens, events at 10 and 20, two spans.
v1::Rollout WholeRollout() {
  RandomStream stream(8);
  rl::Rollout rollout;
  rollout.id = "r";
  rollout.prompt_tokens = 4;
  for (int i = 0; i < 24; ++i) {
    rollout.tokens.push_back(i);
    rollout.origins.push_back(i < 4 ? rl::Origin::kPrompt : rl::Origin::kSampled);
    rollout.logprobs.push_back(i < 4 ? 0.f : -1.f);
  }
  rollout.origins[23] = rl::Origin::kInjected;
  rollout.logprobs[23] = 0;
  rollout.events = {RandomEvent(stream, {2, 1}, 10), RandomEvent(stream, {2, 1}, 20)};
  rollout.spans = {{4, 12, PolicyVersion(7), 0}, {12, 24, PolicyVersion(8), 1}};
  return ToProto(rollout);
}

TEST(BrokenTest, RolloutsAreRefusedByThePlaceThatIsBroken) {
  using R = v1::Rollout;
  ExpectRefused<R>(
      WholeRollout(),
      {
          {"rollout.id", [](R& r) { r.clear_id(); }},
          {"rollout.id", [](R& r) { r.set_id(std::string(257, 'x')); }},
          {"rollout.prompt_tokens", [](R& r) { r.set_prompt_tokens(0); }},
          {"rollout.prompt_tokens", [](R& r) { r.set_prompt_tokens(25); }},
          {"rollout.prompt_tokens", [](R& r) { r.clear_tokens(); }},
          {"rollout.tokens[5]", [](R& r) { r.set_tokens(5, -1); }},
          {"rollout.origins", [](R& r) { r.add_origins(v1::TOKEN_ORIGIN_SAMPLED); }},
          {"rollout.origins[0]", [](R& r) { r.set_origins(0, v1::TOKEN_ORIGIN_SAMPLED); }},
          {"rollout.origins[4]", [](R& r) { r.set_origins(4, v1::TOKEN_ORIGIN_PROMPT); }},
          {"rollout.origins[6]", [](R& r) { r.set_origins(6, v1::TOKEN_ORIGIN_UNSPECIFIED); }},
          {"rollout.origins[6]", [](R& r) { r.set_origins(6, static_cast<v1::TokenOrigin>(9)); }},
          {"rollout.logprobs", [](R& r) { r.mutable_logprobs()->RemoveLast(); }},
          {"rollout.logprobs[6]", [](R& r) { r.set_logprobs(6, static_cast<float>(kNan)); }},
          {"rollout.logprobs[6]",
           [](R& r) { r.set_logprobs(6, -std::numeric_limits<float>::infinity()); }},
          {"rollout.logprobs[1]", [](R& r) { r.set_logprobs(1, -1); }},
          {"rollout.logprobs[23]", [](R& r) { r.set_logprobs(23, -1); }},
          {"rollout.events[1].kept", [](R& r) { r.mutable_events(1)->clear_kept(); }},
          {"rollout.events[1].at", [](R& r) { r.mutable_events()->SwapElements(0, 1); }},
          {"rollout.events[1].at", [](R& r) { r.mutable_events(1)->set_at(24); }},
          {"rollout.events[1].kept",
           [](R& r) {
             r.mutable_events(1)->set_layers(1);
             r.mutable_events(1)->set_kv_heads(2);
           }},
          {"rollout.spans", [](R& r) { r.clear_spans(); }},
          {"rollout.spans", [](R& r) { r.mutable_spans()->RemoveLast(); }},
          {"rollout.spans[0]", [](R& r) { r.mutable_spans(0)->set_begin(3); }},
          {"rollout.spans[1]", [](R& r) { r.mutable_spans(0)->set_end(13); }},
          {"rollout.spans[1]", [](R& r) { r.mutable_spans(1)->set_end(12); }},
          {"rollout.spans", [](R& r) { r.mutable_spans(1)->set_end(25); }},
          {"rollout.spans[1].policy_version",
           [](R& r) { r.mutable_spans(1)->set_policy_version(-1); }},
          {"rollout.spans[1].kv_epoch", [](R& r) { r.mutable_spans(1)->set_kv_epoch(-1); }},
          {"rollout.finish_reason", [](R& r) { r.clear_finish_reason(); }},
          {"rollout.finish_reason",
           [](R& r) { r.set_finish_reason(static_cast<v1::FinishReason>(6)); }},
          {"rollout.sample", [](R& r) { r.set_sample(-1); }},
          {"rollout.temperature", [](R& r) { r.set_temperature(0); }},
          {"rollout.temperature", [](R& r) { r.set_temperature(kNan); }},
          {"rollout.duration_seconds", [](R& r) { r.set_duration_seconds(-1); }},
      });
}

v1::ContextPolicy WholePolicy() {
  v1::ContextPolicy proto;
  proto.mutable_kv_budget()->set_budget(64);
  proto.mutable_kv_budget()->set_window(32);
  return proto;
}

TEST(BrokenTest, PoliciesAreRefusedByThePlaceThatIsBroken) {
  using P = v1::ContextPolicy;
  ExpectRefused<P>(
      WholePolicy(),
      {
          {"context.kv_budget.budget", [](P& p) { p.mutable_kv_budget()->set_budget(0); }},
          {"context.kv_budget.budget", [](P& p) { p.mutable_kv_budget()->set_window(65); }},
          {"context.kv_budget.window", [](P& p) { p.mutable_kv_budget()->set_window(0); }},
          {"context.kv_budget.keep_ratio",
           [](P& p) { p.mutable_kv_budget()->set_keep_ratio(kNan); }},
          {"context.kv_budget.keep_ratio", [](P& p) { p.mutable_kv_budget()->set_keep_ratio(1); }},
          {"context.kv_budget.early", [](P& p) { p.mutable_kv_budget()->set_early(1); }},
          {"context.kv_budget.early", [](P& p) { p.mutable_kv_budget()->set_early(kNan); }},
          {"context.segments.every", [](P& p) { p.mutable_segments()->set_window(9); }},
          {"context.turns.n_protect_turns",
           [](P& p) { p.mutable_turns()->set_n_protect_turns(-1); }},
          {"context.turns.max_turns", [](P& p) { p.mutable_turns()->set_max_turns(0); }},
          {"context.manual.keep_ratio", [](P& p) { p.mutable_manual()->set_keep_ratio(-0.5); }},
          {"context.method", [](P& p) { p.set_method(static_cast<v1::CompactionMethod>(9)); }},
          {"context.parameters.mu", [](P& p) { p.mutable_parameters()->set_mu(0); }},
          {"context.parameters.chooser",
           [](P& p) { p.mutable_parameters()->set_chooser(v1::COMPACTION_CHOOSER_RANDOM); }},
          {"context.reference_tokens", [](P& p) { p.set_reference_tokens(0); }},
          {"context.protect", [](P& p) { p.set_protect(-1); }},
      });
}

TEST(BrokenTest, SamplingAndBudgetMessagesAreRefusedByThePlaceThatIsBroken) {
  using S = v1::SamplingParams;
  ExpectRefused<S>(S(), {
                            {"sampling.temperature", [](S& s) { s.set_temperature(kNan); }},
                            {"sampling.top_p", [](S& s) { s.set_top_p(0); }},
                            {"sampling.max_tokens", [](S& s) { s.set_max_tokens(0); }},
                            {"sampling.stop_ids[0]", [](S& s) { s.add_stop_ids(-1); }},
                        });
  using B = v1::BudgetMessages;
  RandomStream stream(9);
  ExpectRefused<B>(ToProto(RandomBudgetMessages(stream)),
                   {{"budget_messages.every", [](B& b) { b.set_every(-1); }},
                    {"budget_messages.total", [](B& b) { b.set_total(-1); }}});
}

TEST(BrokenTest, OutcomesThatAreNotKnownAreRefused) {
  EXPECT_FALSE(FromProto(v1::OUTCOME_UNSPECIFIED, "outcome").ok());
  EXPECT_FALSE(FromProto(static_cast<v1::Outcome>(6), "outcome").ok());
}

// Whatever one flipped byte makes of a message, reading it ends with a value or a refusal.
TEST(BrokenTest, FlippedBytesEndWithAValueOrARefusal) {
  google::protobuf::LogSilencer silence;  // strings that are no longer UTF-8
  RandomStream stream(10);
  const std::string whole = WholeRollout().SerializeAsString();
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    bytes[stream.Below(static_cast<int64_t>(bytes.size()))] ^=
        static_cast<char>(1 + stream.Below(255));
    v1::Rollout message;
    if (!message.ParseFromString(bytes)) continue;
    const auto rollout = FromProto(message);
    refused += !rollout.ok();
    if (!rollout.ok()) continue;
    EXPECT_EQ(*FromProto(ToProto(*rollout)), *rollout);
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace palimpsest::wire
