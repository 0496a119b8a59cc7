// Tensor cores and the fast unary instructions: the PTX of this backend, besides cp_async.cuh.
//
// Fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), g = lane / 4, t = lane % 4:
//   A 16x16, 4 registers of two neighbouring k: (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8)
//   B 16x8,  2 registers of two neighbouring k: (2t, g) (2t+8, g)
//   C 16x8,  4 floats:                          (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
// LoadMatrix4 fills exactly these from rows of 8 bf16: as A from matrices (rows 0-7, k 0-7) (8-15, 0-7) (0-7, 8-15)
// (8-15, 8-15); as two Bs, from rows that are columns n of B, (n 0-7, k 0-7) (0-7, 8-15) (8-15, 0-7) (8-15, 8-15).
#pragma once
#include "device.cuh"
#ifdef TOKENFLOW_SIMT
#include "ptx.h"
#endif

namespace tokenflow::cuda {

// Two floats to bf16, round to nearest even, `low` in the low half.
DEVICE uint32_t PackBf16(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  uint32_t r = 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t u = __float_as_uint(i ? high : low);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    const uint32_t h = nan ? 0x7fffu : (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    r |= h << (16 * i);
  }
  return r;
#endif
}

// 2^x; 2 ulp, subnormal results become 0.
DEVICE float FastExp2(float x) {
#ifdef TOKENFLOW_SIMT
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

DEVICE void LoadMatrix4(uint32_t* r, const void* row) {
#ifdef TOKENFLOW_SIMT
  simt::LoadMatrix4(r, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

DEVICE void LoadMatrix4Transposed(uint32_t* r, const void* row) {
#ifdef TOKENFLOW_SIMT
  simt::LoadMatrix4(r, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// sm_75 multiplies fp16 only. Beyond +-65504 that overflows, so bf16 programs are refused there unless a model was checked.
DEVICE uint32_t Bf16ToHalf2(uint32_t pair) {
  uint32_t r;
  asm("{ .reg .b16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h}; }"
      : "=r"(r)
      : "f"(__uint_as_float(pair << 16)), "f"(__uint_as_float(pair & 0xffff0000u)));
  return r;
}
#endif

// C += A B.
DEVICE void MmaBf16(float* c, const uint32_t* a, const uint32_t* b) {
#if defined(TOKENFLOW_SIMT)
  simt::MmaBf16(c, a, b);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(Bf16ToHalf2(a[2 * half])), "r"(Bf16ToHalf2(a[2 * half + 1])), "r"(Bf16ToHalf2(b[half])));
  }
#endif
}

}  // namespace tokenflow::cuda
