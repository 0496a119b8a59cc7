// Memory brought into the second-level cache in equal steps, while something else is worked on.
#pragma once
#include <algorithm>
#include <cstdint>

namespace tokenflow {

class CacheAhead {
 public:
  CacheAhead(const void* data, int64_t bytes, int64_t steps)
      : at_(static_cast<const char*>(data)),
        end_(at_ + bytes),
        step_((bytes / kLine + steps - 1) / steps * kLine) {}

  void Step() {
    const char* stop = end_ - at_ > step_ ? at_ + step_ : end_;
    for (; at_ < stop; at_ += kLine) __builtin_prefetch(at_, 0, 1);
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* at_;
  const char* end_;
  int64_t step_;
};

}  // namespace tokenflow
