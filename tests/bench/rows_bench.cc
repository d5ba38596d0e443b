// A forward pass of few rows: the kernels of an engine against the plain pass, in one run, taking
// turns. Two layers of Qwen3-0.6B's shape, or the quickstart's model. Usage: rows_bench [rounds]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "common/base/clock.h"
#include "common/model/decoder.h"
#include "common/model/huge_pages.h"

namespace palimpsest::model {
namespace {

// Each row sees itself only: what is measured is everything but attention.
class OwnValue final : public AttentionContext {
 public:
  at::Tensor Attend(int, const at::Tensor& q, const at::Tensor&, const at::Tensor& v) override {
    return v.repeat_interleave(q.size(1) / v.size(1), 1);
  }
};

double Seconds(const std::function<void()>& work) {
  const absl::Time begin = SystemClock().Now();
  work();
  return absl::ToDoubleSeconds(SystemClock().Now() - begin);
}

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

void Compare(const char* name, const ModelConfig& config, DType dtype, int64_t rows, int rounds) {
  const auto plain = Decoder::Random(config, 1, dtype);
  const auto fixed = Decoder::Random(config, 1, dtype, Kernels::kFixed);
  const at::Tensor ids = at::randint(0, config.vocab, {rows}, at::kLong);
  const at::Tensor positions = at::arange(rows, at::kLong);
  c10::NoGradGuard no_grad;
  const auto pass = [&](const Decoder& decoder) {
    OwnValue attention;
    decoder.Logits(decoder.Hidden(ids, positions, attention));
  };
  pass(*plain), pass(*fixed);
  std::vector<double> plain_seconds, row_seconds;
  for (int i = 0; i < rounds; ++i) {
    plain_seconds.push_back(Seconds([&] { pass(*plain); }));
    row_seconds.push_back(Seconds([&] { pass(*fixed); }));
  }
  double weights = 0;
  for (const auto& [key, tensor] : fixed->Parameters()) {
    if (key != "model.embed_tokens.weight") weights += static_cast<double>(tensor.nbytes());
  }
  const double took = Median(row_seconds);
  std::printf(
      "{\"model\": \"%s\", \"dtype\": \"%s\", \"rows\": %ld, \"plain_s\": %.6f, \"rows_s\": %.6f, "
      "\"speedup\": %.2f, \"weights_gb_per_s\": %.1f}\n",
      name, dtype == DType::kBFloat16 ? "bfloat16" : "float32", rows, Median(plain_seconds), took,
      Median(plain_seconds) / took, weights / took / 1e9);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
  const ModelConfig large{.layers = 2,
                          .hidden = 1024,
                          .intermediate = 3072,
                          .heads = 16,
                          .kv_heads = 8,
                          .head_dim = 128,
                          .vocab = 8192,
                          .max_position = 4096};
  const ModelConfig tiny{.layers = 4,
                         .hidden = 128,
                         .intermediate = 512,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 32,
                         .vocab = 257,
                         .max_position = 4096};
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const int64_t rows : {1, 4, 16, 64, 256})
      Compare("2 layers of Qwen3-0.6B", large, dtype, rows, rounds);
    for (const int64_t rows : {1, 16, 64, 128}) Compare("quickstart", tiny, dtype, rows, rounds);
  }
  return 0;
}

}  // namespace
}  // namespace palimpsest::model

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::model::Main(argc, argv);
}
