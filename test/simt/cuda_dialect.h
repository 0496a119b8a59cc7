// What a kernel of native/cuda takes from <cuda_runtime.h>, for the machine of simt.h: keywords, built-in variables and
// device functions under CUDA's own names. Only what is used, each with the arithmetic the CUDA guide states.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "shared_memory.h"
#include "simt.h"

#define __global__ [[maybe_unused]] static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(uint32_t x, uint32_t y) {
  return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}

#define threadIdx (::simt::machine().threads[::simt::machine().current].index)
#define blockIdx (::simt::machine().block_index)
#define blockDim (::simt::machine().block)
#define gridDim (::simt::machine().grid)

inline void __syncthreads() {
  simt::BlockBarrier();
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  const int nothing = 0;
  simt::WarpArrive(&nothing, sizeof nothing, mask, simt::WarpOp::kSyncwarp);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = (simt::Lane() & ~(width - 1)) | (source & (width - 1));
  return simt::Exchange(value, lane, mask, simt::WarpOp::kShuffle);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int lane = simt::Lane() ^ lane_mask;
  const bool inside = (lane & ~(width - 1)) <= (simt::Lane() & ~(width - 1));
  return simt::Exchange(value, inside ? lane : simt::Lane(), mask, simt::WarpOp::kShuffle);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int in_group = simt::Lane() & (width - 1);
  const int lane =
      in_group + static_cast<int>(delta) < width ? simt::Lane() + static_cast<int>(delta) : simt::Lane();
  return simt::Exchange(value, lane, mask, simt::WarpOp::kShuffle);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int in_group = simt::Lane() & (width - 1);
  const int lane =
      in_group >= static_cast<int>(delta) ? simt::Lane() - static_cast<int>(delta) : simt::Lane();
  return simt::Exchange(value, lane, mask, simt::WarpOp::kShuffle);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char mine = predicate != 0;
  simt::WarpArrive(&mine, 1, mask, simt::WarpOp::kVote);
  unsigned result = 0;
  for (int lane = 0; lane < 32; lane++) {
    if ((mask >> lane & 1) && simt::PublishedBy(lane)[0]) result |= 1u << lane;
  }
  return result;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

// One thread runs at a time, so a plain read-modify-write is atomic here.
template <class T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <class T>
T atomicMin(T* p, T value) {
  const T old = *p;
  if (value < old) *p = value;
  return old;
}
template <class T>
T atomicMax(T* p, T value) {
  const T old = *p;
  if (value > old) *p = value;
  return old;
}

inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}

inline uint32_t __float_as_uint(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline float __uint_as_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}

using std::fma;
using std::max;
using std::min;
