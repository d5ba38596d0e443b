#pragma once

#include "common/base/status.h"
#include "common/model/decoder.h"

namespace palimpsest::model {

// Copies `source` into `target`, tensor by tensor of the same name, casting the dtype. Everything
// is checked before the first byte moves: missing, extra, doubled, mis-shaped or non-floating
// tensors are refused by name. Left out without complaint: rotary inv_freq buffers, and with a tied
// head an lm_head.weight of the embedding's shape.
absl::Status CopyNamed(const NamedTensors& source, bool tied, const NamedTensors& target);

// Decoder::Save of a decoder that has this config and these parameters. Any thread.
absl::Status SaveNamed(const ModelConfig& config, const NamedTensors& parameters,
                       const std::string& folder);

}  // namespace palimpsest::model
