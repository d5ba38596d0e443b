#pragma once

#include "common/compaction/matching_torch.h"

namespace palimpsest::compaction {

// ScoreWindow and MatchWindow by tensor operations, for gradients through all of a fit; the errors
// of the fit are left undefined. Without autograd window_fit.h gives the same up to the order of
// sums.
LocalSoftmax ScoreWithGrad(const WindowBatch& window);
Fit MatchWithGrad(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept,
                  const Numerics& numerics);

// fp32 for fp32 and bf16, fp64 for fp64.
at::Tensor Wide(const at::Tensor& x);

}  // namespace palimpsest::compaction
