#pragma once

namespace at {
class Tensor;
}

namespace palimpsest::model {

class LayerKeeper;

// Rows of `table` [V, D] at int64 ids [T] -> [T, D]. The gradient of a row is summed over its
// tokens in fp32 (fp64) whatever the table's dtype: in bf16 the sum of a frequent token stops
// growing at 256 times what it still gets. With a keeper the table is taken for as long as rows are
// read, and its gradient goes to the keeper.
at::Tensor EmbeddingRows(const at::Tensor& table, const at::Tensor& ids,
                         LayerKeeper* keeper = nullptr);

}  // namespace palimpsest::model
