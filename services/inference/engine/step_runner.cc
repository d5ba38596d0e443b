#include "services/inference/engine/step_runner.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <memory>
#include <numeric>

#include "common/attention/execute_torch.h"
#include "services/inference/core/sampler.h"
#include "services/inference/engine/paged_attention_torch.h"
#include "services/inference/engine/sequence_torch.h"

namespace palimpsest::inference {
namespace {

// Attention of a step. Single rows read the pages where they stand; the rows of a longer chunk go
// through a plan: the live slots before them, and, causally, each other.
class StepAttention final : public model::AttentionContext {
 public:
  StepAttention(KvPool& pool, const std::vector<StepItem>& items, double scale, bool all_single)
      : pool_(pool), items_(items), scale_(scale), all_single_(all_single) {
    for (const StepItem& item : items) rows_ += item.count;
  }

  at::Tensor Attend(int layer, const at::Tensor& q_in, const at::Tensor& k_in,
                    const at::Tensor& v_in) override {
    const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    at::Tensor o = at::empty_like(q);
    std::vector<SingleRow> single;
    std::vector<Chunk> chunks;
    int64_t begin = 0;
    for (const StepItem& item : items_) {
      SequenceCache& cache = *item.sequence->cache;
      if (item.count == 1 || all_single_) {
        for (int32_t i = 0; i < item.count; ++i)
          single.push_back({.row = begin + i, .cache = &cache, .seen_after = i + 1});
      } else {
        chunks.push_back({.begin = begin, .count = item.count, .cache = &cache});
      }
      cache.Write(layer, begin, item.count, k, v);
      Record(layer, begin, *item.sequence, item.count, q, k);
      begin += item.count;
    }
    if (!single.empty()) AttendRows(pool_, layer, single, q, scale_, o);
    if (!chunks.empty()) AttendChunks(layer, chunks, q, k, v, o);
    return o;
  }

 private:
  struct Chunk {
    int64_t begin = 0;
    int32_t count = 0;
    const SequenceCache* cache = nullptr;
  };

  // Keys of the chunks themselves stand in k and v [T, Hk, d], earlier ones in the pool.
  void AttendChunks(int layer, const std::vector<Chunk>& chunks, const at::Tensor& q,
                    const at::Tensor& k, const at::Tensor& v, at::Tensor& o) const {
    attention::PlanBuilder builder(rows_, static_cast<int>(k.size(1)));
    for (const Chunk& chunk : chunks) {
      std::vector<int64_t> own(chunk.count);
      std::iota(own.begin(), own.end(), chunk.begin);
      builder.AddCausal(chunk.begin, own);
      std::vector<std::vector<int64_t>> earlier;
      for (int h = 0; h < k.size(1); ++h) {
        earlier.push_back(chunk.cache->Slots(layer, h).slot);
        for (int64_t& slot : earlier.back()) slot += rows_;
      }
      builder.AddPerHead(chunk.begin, chunk.count, std::move(earlier));
    }
    const attention::KeySource source{.k = k,
                                      .v = v,
                                      .k_compact = pool_.k(layer),
                                      .v_compact = pool_.v(layer),
                                      .bias = pool_.bias(layer)};
    const at::Tensor all = attention::ExecutePlan(builder.Build(), q, source, scale_).o;
    for (const Chunk& chunk : chunks) {
      o.narrow(0, chunk.begin, chunk.count).copy_(all.narrow(0, chunk.begin, chunk.count));
    }
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
    store.Record(layer, position, count, begin, q, k);
  }

  KvPool& pool_;
  const std::vector<StepItem>& items_;
  int64_t rows_ = 0;
  double scale_;
  bool all_single_;  // rows of chunks too: their sums do not depend on where a chunk ends
};

constexpr int64_t kWeighRows = 64;  // of prompts, whose logits stand in memory at once

// `hidden` [count, D]: of the item's rows, which are in the cache already. Row j speaks of the
// token after it.
void WeighPrompt(const model::Decoder& decoder, const at::Tensor& hidden, Sequence& s) {
  const rl::SamplingParams& p = s.owner->request.sampling;
  const int64_t first = s.processed() - hidden.size(0) + 1;
  const int64_t end = std::min<int64_t>(hidden.size(0), s.prompt_tokens - first);
  s.prompt_logprobs.resize(s.prompt_tokens - 1);
  if (*p.prompt_logprobs > 0) s.prompt_top.resize(s.prompt_tokens - 1);
  for (int64_t begin = 0; begin < end; begin += kWeighRows) {
    const int64_t rows = std::min(kWeighRows, end - begin);
    const at::Tensor logits =
        decoder.Logits(hidden.narrow(0, begin, rows)).to(at::kFloat).contiguous();
    const auto vocab = static_cast<size_t>(logits.size(1));
    for (int64_t j = 0; j < rows; ++j) {
      const int64_t at = first + begin + j;  // position of the token
      Draw draw = WeighToken({logits.const_data_ptr<float>() + j * vocab, vocab}, s.tokens[at],
                             p.temperature, *p.prompt_logprobs);
      s.prompt_logprobs[at - 1] = draw.logprob;
      if (!s.prompt_top.empty()) s.prompt_top[at - 1] = std::move(draw.top);
    }
  }
}

}  // namespace

StepOutput RunStep(const model::Decoder& decoder, KvPool& pool,
                   const std::vector<StepItem>& items) {
  c10::NoGradGuard no_grad;
  std::vector<int64_t> ids, positions, last_rows;
  StepOutput out;
  for (size_t i = 0; i < items.size(); ++i) {
    const Sequence& s = *items[i].sequence;
    for (int32_t j = 0; j < items[i].count; ++j) {
      positions.push_back(s.processed() + j);
      ids.push_back(s.tokens[s.processed() + j]);
    }
    items[i].sequence->cache->Reserve(items[i].count);
    if (s.pending() == items[i].count) {
      out.with_logits.push_back(static_cast<int>(i));
      last_rows.push_back(static_cast<int64_t>(ids.size()) - 1);
    }
  }
  StepAttention attention(pool, items,
                          1 / std::sqrt(static_cast<double>(decoder.config().head_dim)),
                          decoder.kernels() == model::Kernels::kFixed);
  const at::Tensor hidden =
      decoder.Hidden(at::tensor(ids, at::kLong), at::tensor(positions, at::kLong), attention);
  int64_t begin = 0;
  for (const StepItem& item : items) {
    Sequence& s = *item.sequence;
    s.cache->Append(item.count);
    if (s.sample < 0 && s.owner->request.sampling.prompt_logprobs)
      WeighPrompt(decoder, hidden.narrow(0, begin, item.count), s);
    begin += item.count;
  }
  if (last_rows.empty()) return out;
  const auto logits = std::make_shared<const at::Tensor>(
      decoder.Logits(hidden.index_select(0, at::tensor(last_rows, at::kLong)))
          .to(at::kFloat)
          .contiguous());
  out.logits = {logits->const_data_ptr<float>(), static_cast<size_t>(logits->numel())};
  out.owner = logits;
  return out;
}

}  // namespace palimpsest::inference
