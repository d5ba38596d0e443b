#include "services/inference/engine/step_runner.h"

#include <algorithm>
#include <numeric>

#include "services/inference/core/sampler.h"
#include "services/inference/engine/sequence.h"

namespace palimpsest::inference {
namespace {

constexpr int64_t kWeighRows = 64;  // of prompts, whose logits stand in memory at once

// Its rows begin at row `begin` of the pass and are in the cache already. Row j speaks of the token
// after it.
void WeighPrompt(StepDevice& device, int32_t begin, int32_t count, Sequence& s) {
  const rl::SamplingParams& p = s.owner->request.sampling;
  const int64_t first = s.processed() - count + 1;
  const int64_t end = std::min<int64_t>(count, s.prompt_tokens - first);
  s.prompt_logprobs.resize(s.prompt_tokens - 1);
  if (*p.prompt_logprobs > 0) s.prompt_top.resize(s.prompt_tokens - 1);
  for (int64_t from = 0; from < end; from += kWeighRows) {
    std::vector<int32_t> rows(std::min(kWeighRows, end - from));
    std::iota(rows.begin(), rows.end(), begin + static_cast<int32_t>(from));
    const std::span<const float> logits = device.Logits(rows);
    const size_t vocab = logits.size() / rows.size();
    for (size_t j = 0; j < rows.size(); ++j) {
      const int64_t at = first + from + static_cast<int64_t>(j);  // position of the token
      Draw draw = WeighToken(logits.subspan(j * vocab, vocab), s.tokens[at], p.temperature,
                             *p.prompt_logprobs);
      s.prompt_logprobs[at - 1] = draw.logprob;
      if (!s.prompt_top.empty()) s.prompt_top[at - 1] = std::move(draw.top);
    }
  }
}

StepRows RowsOf(Sequence& s, int32_t count) {
  SequenceCache& cache = *s.cache;
  cache.Reserve(count);
  const int32_t position = s.processed();
  StepRows rows{.tokens = std::span(s.tokens).subspan(position, count),
                .position = position,
                .table = cache.table(),
                .lengths = cache.lengths()};
  QueryStore& store = cache.queries();
  if (store.ring() == nullptr) return rows;
  const int32_t needed = context::RecordQueriesFrom(s.owner->request.context, s.PolicyView());
  if (needed >= position + count) return rows;
  rows.skipped = store.Extend(position, count, needed);
  if (rows.skipped < count) rows.ring = store.ring();
  return rows;
}

}  // namespace

StepOutput RunStep(StepDevice& device, const std::vector<StepItem>& items) {
  std::vector<StepRows> sequences;
  std::vector<int32_t> begins, last_rows;
  StepOutput out;
  int32_t rows = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    Sequence& s = *items[i].sequence;
    begins.push_back(rows);
    rows += items[i].count;
    sequences.push_back(RowsOf(s, items[i].count));
    if (s.pending() > items[i].count) continue;
    out.with_logits.push_back(static_cast<int>(i));
    last_rows.push_back(rows - 1);
  }
  device.Run(sequences);
  for (size_t i = 0; i < items.size(); ++i) {
    Sequence& s = *items[i].sequence;
    s.cache->Append(items[i].count);
    if (s.sample < 0 && s.owner->request.sampling.prompt_logprobs)
      WeighPrompt(device, begins[i], items[i].count, s);
  }
  out.logits = device.Logits(last_rows);
  return out;
}

}  // namespace palimpsest::inference
