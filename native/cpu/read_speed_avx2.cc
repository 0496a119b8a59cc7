#include <immintrin.h>

#include "cpu/read_speed.h"

namespace tokenflow {

float ReadFloatsAvx2(const float* x, int64_t n) {
  constexpr int kChains = 4, kLanes = 8;
  __m256 sums[kChains];
  for (int i = 0; i < kChains; i++) sums[i] = _mm256_setzero_ps();
  for (int64_t at = 0; at < n; at += kChains * kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) sums[i] = _mm256_add_ps(sums[i], _mm256_load_ps(x + at + i * kLanes));
  }
  alignas(64) float lanes[kLanes];
  _mm256_store_ps(lanes, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
  float sum = 0.0f;
  for (const float value : lanes) sum += value;
  return sum;
}

}  // namespace tokenflow
