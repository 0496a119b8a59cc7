// Carves arrays out of one allocation. With a null base it only counts, so the same code says how much is needed.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tokenflow::cuda {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <class T>
  T* Take(int64_t count) {
    T* p = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    constexpr size_t kAlign = 256;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return p;
  }

  size_t used() const { return used_; }

 private:
  unsigned char* base_;
  size_t used_ = 0;
};

}  // namespace tokenflow::cuda
