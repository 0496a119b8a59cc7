#include <immintrin.h>

#include <utility>

#include "cpu/winograd_kernels.h"

namespace tokenflow {
namespace {

struct Vec {
  static constexpr int kLanes = 16;
  static constexpr int kMaxRows = 14;  // 28 sums, 2 columns, 1 row value of 32 registers

  __m512 v;

  static Vec Set(float x) { return {_mm512_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void AddTo(double* p) const {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    _mm512_storeu_pd(p, _mm512_add_pd(_mm512_loadu_pd(p), low));
    _mm512_storeu_pd(p + 8, _mm512_add_pd(_mm512_loadu_pd(p + 8), high));
  }
};

inline Vec Add(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Vec Sub(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Vec Mul(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Vec Div(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline Vec Min(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline Vec Fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}  // a b + c
inline Vec Fnma(Vec a, Vec b, Vec c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}  // c - a b

inline Vec Round(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT)};
}
inline Vec Scale(Vec a, Vec n) {
  return {_mm512_scalef_ps(a.v, n.v)};
}  // a 2^n, n an integer

}  // namespace
}  // namespace tokenflow

#include "cpu/winograd_kernels.inc"

namespace tokenflow {
const WinogradKernels& WinogradKernelsAvx512() {
  return kKernels;
}
}  // namespace tokenflow
