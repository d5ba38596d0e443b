#include "services/inference/engine/step_runner.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "services/inference/engine/sequence_torch.h"

namespace palimpsest::inference {
namespace {

// Attention of a step: each item's rows see its live slots and, causally, each other.
class StepAttention final : public model::AttentionContext {
 public:
  StepAttention(KvPool& pool, const std::vector<StepItem>& items,
                std::vector<std::vector<int64_t>> rows, double scale)
      : pool_(pool), items_(items), rows_(std::move(rows)), scale_(scale) {
    for (const auto& r : rows_) all_rows_.insert(all_rows_.end(), r.begin(), r.end());
  }

  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override {
    pool_.Write(layer, all_rows_, k, v, {});
    attention::PlanBuilder builder(q.size(0), static_cast<int>(k.size(1)));
    int64_t begin = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      AddItem(layer, begin, *items_[i].sequence, rows_[i], builder);
      Record(layer, begin, *items_[i].sequence, items_[i].count, q, k);
      begin += items_[i].count;
    }
    return attention::ExecutePlan(builder.Build(), q, pool_.Source(layer), scale_).o;
  }

 private:
  static void AddItem(int layer, int64_t begin, Sequence& s, const std::vector<int64_t>& rows,
                      attention::PlanBuilder& builder) {
    std::vector<std::vector<int64_t>> slots;
    for (const attention::HeadSlots& head : s.cache->layer(layer)) slots.push_back(head.slot);
    if (rows.size() == 1) {  // a decode row: its own slot is one more key
      for (auto& list : slots) list.push_back(rows.front());
    } else {
      builder.AddCausal(begin, rows);
    }
    builder.AddPerHead(begin, static_cast<int64_t>(rows.size()), std::move(slots));
  }

  static void Record(int layer, int64_t begin, Sequence& s, int32_t count, const at::Tensor& q,
                     const at::Tensor& k) {
    QueryStore& store = s.cache->queries();
    if (!store.enabled()) return;
    const int32_t position = s.processed();
    if (layer == 0) {
      const int32_t needed = context::RecordQueriesFrom(s.owner->request.context, s.PolicyView());
      if (needed >= position + count) return;
      store.Extend(position, count, needed);
    }
    if (store.end() != position + count) return;  // nothing of this chunk is asked for
    store.Record(layer, position, q.slice(0, begin, begin + count),
                 k.slice(0, begin, begin + count));
  }

  KvPool& pool_;
  const std::vector<StepItem>& items_;
  std::vector<std::vector<int64_t>> rows_;  // [items] of [count]
  std::vector<int64_t> all_rows_;
  double scale_;
};

}  // namespace

StepOutput RunStep(const model::Decoder& decoder, KvPool& pool,
                   const std::vector<StepItem>& items) {
  c10::NoGradGuard no_grad;
  std::vector<int64_t> ids, positions, last_rows;
  std::vector<std::vector<int64_t>> rows;
  StepOutput out;
  for (size_t i = 0; i < items.size(); ++i) {
    const Sequence& s = *items[i].sequence;
    for (int32_t j = 0; j < items[i].count; ++j) {
      positions.push_back(s.processed() + j);
      ids.push_back(s.tokens[s.processed() + j]);
    }
    rows.push_back(pool.Take(items[i].count));
    if (s.pending() == items[i].count) {
      out.with_logits.push_back(static_cast<int>(i));
      last_rows.push_back(static_cast<int64_t>(ids.size()) - 1);
    }
  }
  StepAttention attention(pool, items, rows,
                          1 / std::sqrt(static_cast<double>(decoder.config().head_dim)));
  const at::Tensor hidden =
      decoder.Hidden(at::tensor(ids, at::kLong), at::tensor(positions, at::kLong), attention);
  for (size_t i = 0; i < items.size(); ++i) items[i].sequence->cache->Append(rows[i]);
  if (last_rows.empty()) return out;
  const at::Tensor logits = decoder.Logits(hidden.index_select(0, at::tensor(last_rows, at::kLong)))
                                .to(at::kFloat)
                                .contiguous();
  out.logits.assign(logits.data_ptr<float>(), logits.data_ptr<float>() + logits.numel());
  return out;
}

}  // namespace palimpsest::inference
