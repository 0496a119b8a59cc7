#include <immintrin.h>

#include <utility>

#include "cpu/winograd_kernels.h"

namespace tokenflow {
namespace {

struct Vec {
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 6;  // 12 sums, 2 columns, 1 row value of 16 registers

  __m256 v;

  static Vec Set(float x) { return {_mm256_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void Store(float* p) const { _mm256_storeu_ps(p, v); }
  void AddTo(double* p) const {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), low));
    _mm256_storeu_pd(p + 4, _mm256_add_pd(_mm256_loadu_pd(p + 4), high));
  }
};

inline Vec Add(Vec a, Vec b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline Vec Sub(Vec a, Vec b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
inline Vec Mul(Vec a, Vec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline Vec Div(Vec a, Vec b) {
  return {_mm256_div_ps(a.v, b.v)};
}
inline Vec Min(Vec a, Vec b) {
  return {_mm256_min_ps(a.v, b.v)};
}
inline Vec Fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}  // a b + c
inline Vec Fnma(Vec a, Vec b, Vec c) {
  return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}  // c - a b

inline Vec Round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

// a 2^n, n an integer up to 126; below -126 as if -126.
inline Vec Scale(Vec a, Vec n) {
  const __m256i exponent = _mm256_cvtps_epi32(_mm256_max_ps(n.v, _mm256_set1_ps(-126.f)));
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), _mm256_slli_epi32(exponent, 23)))};
}

}  // namespace
}  // namespace tokenflow

#include "cpu/winograd_kernels.inc"

namespace tokenflow {
const WinogradKernels& WinogradKernelsAvx2() {
  return kKernels;
}
}  // namespace tokenflow
