#include <immintrin.h>

#include "cpu/fma_peak.h"

namespace tokenflow {

double FmaRoundsAvx2(int64_t rounds) {
  constexpr int kChains = 12;  // more than latency times ports
  __m256 chain[kChains];
  const __m256 factor = _mm256_set1_ps(0.999f);
#pragma GCC unroll 12  // or the chains live in memory
  for (int i = 0; i < kChains; i++) chain[i] = _mm256_set1_ps(1.0f + i);
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
      // In assembly, so that the compiler neither merges nor drops what nobody reads.
      asm volatile("vfmadd213ps %1, %1, %0" : "+x"(chain[i]) : "x"(factor));
    }
  }
  return 2.0 * 8 * kChains * rounds;
}

}  // namespace tokenflow
