#include "services/inference/engine/step_device.h"

#include "services/inference/core/page_pool.h"

namespace palimpsest::inference {

attention::HeadSlots LiveSlots(const context::ContextState& state, std::span<const int32_t> table,
                               int32_t length, int layer, int head) {
  attention::HeadSlots slots;
  state.AppendSlots(layer, head, {0, state.processed()}, slots.position);
  for (int32_t i = 0; i < length; ++i) slots.slot.push_back(SlotAt(table, i));
  return slots;
}

}  // namespace palimpsest::inference
