#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_format.h"
#include "services/inference/engine/running_batch.h"

// What the pass that decodes says of given tokens, beside what it decodes.
namespace palimpsest::inference {
namespace {

constexpr int32_t kRows = 64;  // whose logits stand in memory at once

// Rows [0, count) of the last pass, of which the first stands at `position`.
void Weigh(StepDevice& device, const ScoreRequest& request, int32_t position, int32_t count,
           ScoreResult& result) {
  for (int32_t from = 0; from < count; from += kRows) {
    std::vector<int32_t> rows(std::min(kRows, count - from));
    std::iota(rows.begin(), rows.end(), from);
    const std::span<const float> logits = device.Logits(rows);
    const size_t vocab = logits.size() / rows.size();
    for (size_t i = 0; i < rows.size(); ++i) {
      Draw draw =
          WeighToken(logits.subspan(i * vocab, vocab), request.tokens[position + rows[i] + 1],
                     request.temperature, request.top.value_or(0));
      result.logprobs.push_back(draw.logprob);
      if (request.top) result.top.push_back(std::move(draw.top));
    }
  }
}

}  // namespace

// The only one that has memory.
bool RunningBatch::PreemptLast() {
  if (!running_.empty()) return PreemptYoungest(running_.front().get());
  for (const Group& g : groups_) {
    if (g.prompt->cache) return PreemptYoungest(g.prompt.get());
  }
  return false;
}

absl::StatusOr<ScoreResult> RunningBatch::Score(const ScoreRequest& request,
                                                PolicyVersion version) {
  const auto rows = static_cast<int32_t>(request.tokens.size()) - 1;  // the last token has none
  const int64_t bytes = PagesFor(rows) * cost_.page_bytes;
  while (FreeBytes() < bytes) {
    if (sessions_.LoseIdlest() || PreemptYoungest(nullptr) || PreemptLast()) continue;
    return absl::ResourceExhaustedError(
        absl::StrFormat("ids has %d tokens, which need %d bytes of KV cache, the pool has %d",
                        rows + 1, bytes, limits_.kv_pool_bytes));
  }
  FreePages(PagesFor(rows));
  SequenceCache cache(pages_, device_, context::Shape{model_.layers, model_.kv_heads}, QueryStore(),
                      flips_);
  ScoreResult result{.logprobs = {}, .top = {}, .events = {}, .version = version};
  for (int32_t begin = 0; begin < rows;) {
    const int32_t count = std::min(limits_.prefill_tokens, rows - begin);
    cache.Reserve(count);
    const StepRows pass{.tokens = std::span(request.tokens).subspan(begin, count),
                        .position = begin,
                        .table = cache.table(),
                        .lengths = cache.lengths()};
    device_.Run({&pass, 1});
    cache.Append(count);
    Weigh(device_, request, begin, count, result);
    begin += count;
  }
  for (size_t i = 0; i < result.logprobs.size(); ++i) {
    if (std::isfinite(result.logprobs[i])) continue;
    return absl::InternalError(absl::StrFormat(
        "logprobs[%d]: the logits of policy version %d are not finite", i, version.value()));
  }
  return result;
}

}  // namespace palimpsest::inference
