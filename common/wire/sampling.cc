#include "common/wire/sampling.h"

#include "common/wire/field.h"

namespace palimpsest::wire {

absl::StatusOr<rl::SamplingParams> FromProto(const v1::SamplingParams& proto,
                                             std::string_view path) {
  rl::SamplingParams p;
  if (proto.has_temperature()) p.temperature = proto.temperature();
  p.top_k = proto.top_k();
  if (proto.has_top_p()) p.top_p = proto.top_p();
  p.min_p = proto.min_p();
  if (proto.has_repetition_penalty()) p.repetition_penalty = proto.repetition_penalty();
  p.presence_penalty = proto.presence_penalty();
  p.frequency_penalty = proto.frequency_penalty();
  p.logit_bias.insert(proto.logit_bias().begin(), proto.logit_bias().end());
  p.stop_ids.assign(proto.stop_ids().begin(), proto.stop_ids().end());
  p.stop_strings.assign(proto.stop_strings().begin(), proto.stop_strings().end());
  if (proto.has_max_tokens()) p.max_tokens = proto.max_tokens();
  p.min_tokens = proto.min_tokens();
  p.seed = proto.seed();
  p.ignore_eos = proto.ignore_eos();
  if (proto.has_top_logprobs()) p.top_logprobs = proto.top_logprobs();
  if (proto.has_prompt_logprobs()) p.prompt_logprobs = proto.prompt_logprobs();
  RETURN_IF_ERROR(Under(path, rl::Validate(p)));
  return p;
}

v1::SamplingParams ToProto(const rl::SamplingParams& p) {
  v1::SamplingParams proto;
  proto.set_temperature(p.temperature);
  proto.set_top_k(p.top_k);
  proto.set_top_p(p.top_p);
  proto.set_min_p(p.min_p);
  proto.set_repetition_penalty(p.repetition_penalty);
  proto.set_presence_penalty(p.presence_penalty);
  proto.set_frequency_penalty(p.frequency_penalty);
  proto.mutable_logit_bias()->insert(p.logit_bias.begin(), p.logit_bias.end());
  proto.mutable_stop_ids()->Assign(p.stop_ids.begin(), p.stop_ids.end());
  proto.mutable_stop_strings()->Assign(p.stop_strings.begin(), p.stop_strings.end());
  if (p.max_tokens) proto.set_max_tokens(*p.max_tokens);
  proto.set_min_tokens(p.min_tokens);
  proto.set_seed(p.seed);
  proto.set_ignore_eos(p.ignore_eos);
  if (p.top_logprobs) proto.set_top_logprobs(*p.top_logprobs);
  if (p.prompt_logprobs) proto.set_prompt_logprobs(*p.prompt_logprobs);
  return proto;
}

absl::StatusOr<rl::BudgetMessages> FromProto(const v1::BudgetMessages& proto,
                                             std::string_view path) {
  rl::BudgetMessages m{proto.text(), proto.at_events(), proto.every(), proto.total()};
  RETURN_IF_ERROR(Under(path, rl::Validate(m)));
  return m;
}

v1::BudgetMessages ToProto(const rl::BudgetMessages& m) {
  v1::BudgetMessages proto;
  proto.set_text(m.text);
  proto.set_at_events(m.at_events);
  proto.set_every(m.every);
  proto.set_total(m.total);
  return proto;
}

}  // namespace palimpsest::wire
