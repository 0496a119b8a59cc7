#include <immintrin.h>

#include "cpu/read_speed.h"

namespace tokenflow {

float ReadFloatsAvx512(const float* x, int64_t n) {
  constexpr int kChains = 4, kLanes = 16;
  __m512 sums[kChains];
  for (int i = 0; i < kChains; i++) sums[i] = _mm512_setzero_ps();
  for (int64_t at = 0; at < n; at += kChains * kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) sums[i] = _mm512_add_ps(sums[i], _mm512_load_ps(x + at + i * kLanes));
  }
  alignas(64) float lanes[kLanes];
  _mm512_store_ps(lanes, _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
  float sum = 0.0f;
  for (const float value : lanes) sum += value;
  return sum;
}

}  // namespace tokenflow
