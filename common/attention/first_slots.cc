#include "common/attention/first_slots.h"

namespace palimpsest::attention {

context::KeptPositions FirstSlots(const context::ContextState& state, context::Range window,
                                  context::Method method, double keep_ratio) {
  context::KeptPositions kept(state.shape());
  std::vector<int32_t> slots;
  for (int layer = 0; layer < state.shape().layers; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      slots.clear();
      state.AppendSlots(layer, head, window, slots);
      slots.resize(context::KeptCount(method, keep_ratio, static_cast<int32_t>(slots.size())));
      kept.AddHead(slots);
    }
  }
  return kept;
}

}  // namespace palimpsest::attention
