// Eight neighbouring elements of a row, float or bf16 (uint16_t), at once; and single ones for what is left of a row.
#pragma once
#include "bf16.cuh"

namespace tokenflow::cuda {

DEVICE void LoadRow8(const uint16_t* p, float* f) {
  Unpack8(Load16(p), f);
}
DEVICE void LoadRow8(const float* p, float* f) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint4 v = Load16(p + 4 * half);
    f[4 * half] = BitsToFloat(v.x), f[4 * half + 1] = BitsToFloat(v.y);
    f[4 * half + 2] = BitsToFloat(v.z), f[4 * half + 3] = BitsToFloat(v.w);
  }
}
DEVICE void StoreRow8(uint16_t* p, const float* f) {
  Store16(p, Pack8(f));
}
DEVICE void StoreRow8(float* p, const float* f) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    Store16(p + 4 * half, make_uint4(FloatToBits(f[4 * half]), FloatToBits(f[4 * half + 1]),
                                     FloatToBits(f[4 * half + 2]), FloatToBits(f[4 * half + 3])));
  }
}
DEVICE float LoadOne(const uint16_t* p) {
  return LowFloat(*p);
}
DEVICE float LoadOne(const float* p) {
  return *p;
}
DEVICE void StoreOne(uint16_t* p, float f) {
  *p = static_cast<uint16_t>(PackBf16(f, 0.0f));
}
DEVICE void StoreOne(float* p, float f) {
  *p = f;
}

// What a value will be when it is read again from where it was stored.
DEVICE float AsStored(const uint16_t*, float f) {
  return LowFloat(PackBf16(f, 0.0f));
}
DEVICE float AsStored(const float*, float f) {
  return f;
}

// Ends an epilogue: adds the residual (or null) to v and stores `columns` of the eight, at once where all are there and rows
// are `aligned` to eight. v becomes what will be read again.
template <class T>
DEVICE void FinishRow8(T* y, const T* residual, int columns, bool aligned, float* v) {
  if (columns >= 8 && aligned) {
    if (residual != nullptr) {
      float f[8];
      LoadRow8(residual, f);
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] += f[e];
    }
    StoreRow8(y, v);
  } else {
#pragma unroll
    for (int e = 0; e < 8; e++) {
      if (e >= columns) break;
      if (residual != nullptr) v[e] += LoadOne(residual + e);
      StoreOne(y + e, v[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < 8; e++) v[e] = AsStored(y, v[e]);
}

}  // namespace tokenflow::cuda
