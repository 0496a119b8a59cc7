// bf16 as the tests write and read it.
#pragma once
#include <cstdint>

#include "bf16.cuh"

inline uint16_t ToBf16(float f) {
  return static_cast<uint16_t>(tokenflow::cuda::PackBf16(f, 0));
}
inline float FromBf16(uint16_t h) {
  return tokenflow::cuda::LowFloat(h);
}
