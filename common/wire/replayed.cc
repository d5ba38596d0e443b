#include "common/wire/replayed.h"

#include "common/wire/field.h"

namespace palimpsest::wire {

absl::StatusOr<std::vector<rl::Replayed>> FromProto(
    const google::protobuf::RepeatedPtrField<v1::ReplayedRollout>& protos,
    const std::map<std::string, int64_t>& sampled, std::string_view path) {
  std::vector<rl::Replayed> values;
  std::map<std::string, int64_t> left = sampled;  // those that have not come yet
  for (int i = 0; i < protos.size(); ++i) {
    const v1::ReplayedRollout& proto = protos[i];
    const auto tokens = left.find(proto.rollout_id());
    if (tokens == left.end()) {
      return Refused(
          Field(Item(path, i), "rollout_id"),
          absl::StrFormat("'%s' is not of the batch, or comes twice", proto.rollout_id()));
    }
    if (proto.logprobs_size() != tokens->second) {
      return Refused(Field(Item(path, i), "logprobs"),
                     absl::StrFormat("%d entries for %d sampled tokens of %s",
                                     proto.logprobs_size(), tokens->second, proto.rollout_id()));
    }
    left.erase(tokens);
    values.push_back({proto.rollout_id(), {proto.logprobs().begin(), proto.logprobs().end()}});
  }
  return values;
}

v1::ReplayedRollout ToProto(const rl::Replayed& replayed) {
  v1::ReplayedRollout proto;
  proto.set_rollout_id(replayed.id);
  proto.mutable_logprobs()->Assign(replayed.logprobs.begin(), replayed.logprobs.end());
  return proto;
}

}  // namespace palimpsest::wire
