// A vector whose data starts on a cache line, as the panel kernels require. A large one starts on a huge page and asks
// the system for such: a codebook that training makes anew with every step is new memory with every step, and to be
// given it in pages of 4 KB takes longer than to fill it.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <vector>

namespace tokenflow {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

template <class T>
struct CacheLineAllocator {
  using value_type = T;

  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}

  static std::align_val_t Alignment(std::size_t n) {
    return std::align_val_t{n * sizeof(T) >= kHugePage ? kHugePage : kCacheLine};
  }

  T* allocate(std::size_t n) {
    void* p = ::operator new(n * sizeof(T), Alignment(n));
#ifdef MADV_HUGEPAGE
    if (n * sizeof(T) >= kHugePage)
      madvise(p, n * sizeof(T), MADV_HUGEPAGE);  // a wish: refusal changes nothing
#endif
    return static_cast<T*>(p);
  }
  void deallocate(T* p, std::size_t n) {
    ::operator delete(p, Alignment(n));
  }
  bool operator==(const CacheLineAllocator&) const {
    return true;
  }
  bool operator!=(const CacheLineAllocator&) const {
    return false;
  }
};

template <class T>
using AlignedVector = std::vector<T, CacheLineAllocator<T>>;

}  // namespace tokenflow
