#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace palimpsest::trainer {

// The flat range [begin, end) of a tensor of `count` elements that rank `rank` of `size` owns:
// equal parts, rounded up, so that the last ones may be shorter or empty. Alone: all of it.
struct FlatRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};
FlatRange OwnedRange(int64_t count, int rank, int size);

// How tensors that go together over the wire stand in a buffer [ranks, width]: a row has the slices
// that its rank owns, one tensor after the other.
class SliceLayout {
 public:
  SliceLayout(const std::vector<int64_t>& counts, int ranks);  // elements of each tensor

  struct Slice {
    size_t tensor = 0;
    int rank = 0;
    FlatRange range;     // of the tensor
    int64_t offset = 0;  // in the row
  };
  const std::vector<Slice>& slices() const { return slices_; }
  int ranks() const { return ranks_; }
  int64_t width() const { return width_; }  // even: rows of bf16 are whole floats

 private:
  const int ranks_;
  int64_t width_ = 0;
  std::vector<Slice> slices_;
};

}  // namespace palimpsest::trainer
