#pragma once

#include "common/base/status.h"
#include "common/model/decoder.h"

namespace palimpsest::model {

// Copies `source` into `target`, tensor by tensor of the same name, casting the dtype. Everything
// is checked before the first byte moves: missing, extra, doubled, mis-shaped or non-floating
// tensors are refused by name. Left out without complaint: rotary inv_freq buffers, and with a tied
// head an lm_head.weight of the embedding's shape.
absl::Status CopyNamed(const NamedTensors& source, bool tied, const NamedTensors& target);

}  // namespace palimpsest::model
