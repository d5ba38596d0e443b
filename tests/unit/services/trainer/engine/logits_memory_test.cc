#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdio>

#include "common/model/logprob.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/peak_memory.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// Logits of all loss rows never exist at once on the way of the policy's loss: what stands at the
// peak is a chunk of them, whatever their number.
namespace palimpsest::trainer {
namespace {

constexpr int kManyTokens = 8192;                            // of the vocabulary
constexpr int64_t kManyRows = 8192;                          // that the loss looks at
constexpr int64_t kAllLogits = kManyRows * kManyTokens * 4;  // bytes, fp32
static_assert(kManyRows >= 8 * model::kLogProbChunkRows);

std::unique_ptr<model::Decoder> WideVocabulary() {
  auto decoder = model::Decoder::Random({.layers = 1,
                                         .hidden = 8,
                                         .intermediate = 8,
                                         .heads = 1,
                                         .kv_heads = 1,
                                         .head_dim = 8,
                                         .vocab = kManyTokens,
                                         .max_position = 512},
                                        1, model::DType::kFloat32);
  for (auto [name, tensor] : decoder->Parameters()) tensor.requires_grad_(true);
  return decoder;
}

// Bytes that `work` adds to the process at its peak.
template <class Work>
int64_t PeakOf(const Work& work) {
  malloc_trim(0);
  ResetPeakMemory();
  const int64_t before = PeakMemory();
  work();
  return PeakMemory() - before;
}

void ExpectAChunk(int64_t peak, const char* what) {
  std::printf("peak bytes of %s: %ld; the logits of all rows: %ld\n", what, static_cast<long>(peak),
              static_cast<long>(kAllLogits));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose own memory counts, too
  EXPECT_LT(peak, kAllLogits / 2) << what;
#endif
}

TEST(LogitsMemoryTest, LogProbsAndEntropiesThereAndBackTakeAChunkOfLogits) {
  const auto decoder = WideVocabulary();
  const at::Tensor rows = at::sin(at::arange(kManyRows * 8, at::kFloat)).view({kManyRows, 8});
  const at::Tensor targets = at::arange(kManyRows, at::kLong) * 5 % kManyTokens;
  for (const bool entropy : {false, true}) {
    const auto peak = [&](int64_t chunk_rows) {
      const at::Tensor own = rows.clone().requires_grad_(true);
      const int64_t bytes = PeakOf([&] {
        if (entropy) {
          const auto [chosen, spread] =
              model::TokenLogProbsAndEntropy(*decoder, own, targets, 1, chunk_rows);
          (chosen.sum() + spread.sum()).backward();
        } else {
          model::TokenLogProbs(*decoder, own, targets, 1, chunk_rows).sum().backward();
        }
      });
      EXPECT_GT(own.grad().abs().max().item<float>(), 0);
      return bytes;
    };
    peak(model::kLogProbChunkRows);  // what is allocated once
    ExpectAChunk(peak(model::kLogProbChunkRows),
                 entropy ? "log-probabilities and entropies" : "log-probabilities");
    EXPECT_GT(peak(kManyRows), kAllLogits) << "the control: all rows are one chunk";
  }
}

// The pass of the engine, with every part of the loss that looks at logits.
TEST(LogitsMemoryTest, APassOfThePolicyLossTakesAChunkOfLogits) {
  constexpr int kRowsEach = 256;
  const auto decoder = WideVocabulary();
  std::vector<int32_t> tokens;
  for (int i = 0; i <= kRowsEach; ++i) tokens.push_back(i * 37 % kManyTokens);
  LossSequence sequence{.replay = {.tokens = tokens, .prompt_tokens = 0, .rows = kRowsEach}};
  for (int p = 1; p <= kRowsEach; ++p) {
    sequence.tokens.push_back({.position = p, .recorded = -9, .advantage = 1, .weight = 1e-3});
  }
  const std::vector<const LossSequence*> batch(kManyRows / kRowsEach, &sequence);
  const rl::ObjectiveOptions options{.entropy = 0.01};
  const auto pass = [&] {
    rl::ObjectiveSums sums;
    const auto loss = [&](const PassTokens& p) { return PolicyLoss(options, p, {}, sums); };
    ASSERT_TRUE(RunPass(*decoder, kReplay, batch, loss, SystemClock()).ok());
    EXPECT_EQ(sums.tokens, kManyRows);
  };
  pass();  // what is allocated once
  TakeGradients(*decoder);
  ExpectAChunk(PeakOf(pass), "a pass");
  EXPECT_GT(decoder->HeadWeight().grad().abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace palimpsest::trainer
