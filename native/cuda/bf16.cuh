// bfloat16 as storage: 16 bits, two to a register, the even element low. Arithmetic is always fp32.
#pragma once
#include "mma.cuh"

namespace tokenflow::cuda {

struct Bf16 {
  uint16_t bits;
};

HOST_DEVICE float BitsToFloat(uint32_t u) {
#if defined(__CUDA_ARCH__) || defined(TOKENFLOW_SIMT)
  return __uint_as_float(u);
#else
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
#endif
}

HOST_DEVICE uint32_t FloatToBits(float f) {
#if defined(__CUDA_ARCH__) || defined(TOKENFLOW_SIMT)
  return __float_as_uint(f);
#else
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
#endif
}

DEVICE float LowFloat(uint32_t pair) {
  return BitsToFloat(pair << 16);
}
DEVICE float HighFloat(uint32_t pair) {
  return BitsToFloat(pair & 0xffff0000u);
}
DEVICE float ToFloat(Bf16 h) {
  return BitsToFloat(static_cast<uint32_t>(h.bits) << 16);
}

// Eight consecutive elements and their 16 bytes.
DEVICE void Unpack8(uint4 v, float* f) {
  f[0] = LowFloat(v.x), f[1] = HighFloat(v.x);
  f[2] = LowFloat(v.y), f[3] = HighFloat(v.y);
  f[4] = LowFloat(v.z), f[5] = HighFloat(v.z);
  f[6] = LowFloat(v.w), f[7] = HighFloat(v.w);
}
DEVICE uint4 Pack8(const float* f) {
  return make_uint4(PackBf16(f[0], f[1]), PackBf16(f[2], f[3]), PackBf16(f[4], f[5]), PackBf16(f[6], f[7]));
}

}  // namespace tokenflow::cuda
