#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace palimpsest::attention {

// Memory that is written before it is read, from the first byte of a cache line on: a register that
// lies across two lines is loaded at half the speed. Grows, never shrinks. One thread.
template <class Real>
class Scratch {
 public:
  // Room for `count`, of whatever was there before.
  Real* Room(size_t count) {
    if (count > room_) {
      room_ = (count + kLine - 1) / kLine * kLine;
      memory_.reset(static_cast<Real*>(::operator new(room_ * sizeof(Real), kAligned)));
    }
    return memory_.get();
  }
  Real* get() const { return memory_.get(); }

 private:
  static constexpr size_t kLine = 64;  // elements: whole cache lines of any Real
  static constexpr std::align_val_t kAligned{64};
  struct Free {
    void operator()(Real* memory) const { ::operator delete(memory, kAligned); }
  };
  std::unique_ptr<Real[], Free> memory_;
  size_t room_ = 0;
};

}  // namespace palimpsest::attention
