// bfloat16 on the host, for packing weights and codebooks.
#pragma once
#include <cstdint>
#include <cstring>

namespace tokenflow::cuda {

// Round to nearest even; beyond the largest finite bf16 it becomes infinity, as the hardware's conversion does. Not a number
// stays one.
inline uint16_t RoundToBf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

inline float FromBf16(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

}  // namespace tokenflow::cuda
