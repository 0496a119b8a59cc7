// One vector of floats, as wide as the instruction set of the file that includes this, and the functions the
// kernels need of it. For kernels_{scalar,avx2,avx512}.cc only: each is compiled with its own flags, so
// everything here is internal to the file (an anonymous namespace) and no standard container is touched.
//
// `scalar` is the baseline of the platform, four lanes of the compiler's generic vectors.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tokenflow {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef double DoubleVec __attribute__((vector_size(kLanes * 8)));

inline Vec Set(float x) {
  return x - Vec{};
}
inline Vec Load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void Store(float* p, Vec v) {
  memcpy(p, &v, sizeof v);
}
inline Vec Load(const float* p, int64_t count) {
  Vec v{};
  memcpy(&v, p, static_cast<size_t>(count) * 4);
  return v;
}
inline void Store(float* p, Vec v, int64_t count) {
  memcpy(p, &v, static_cast<size_t>(count) * 4);
}

// a * b + c, fused where the instruction set has it.
inline Vec Fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// Not a number in x stays one.
inline Vec Clamp(Vec x, float low, float high) {
  x = x < Set(low) ? Set(low) : x;
  return x > Set(high) ? Set(high) : x;
}
inline Vec Max(Vec a, Vec b) {
  return a > b ? a : b;
}
inline Vec Abs(Vec x) {
  return (Vec)((IntVec)x & 0x7fffffff);
}

inline float Sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; i++) total += v[i];
  return total;
}
inline float MaxLane(Vec v) {
  float most = v[0];
  for (int i = 1; i < kLanes; i++) most = v[i] > most ? v[i] : most;
  return most;
}

// e^x within 2 ulp; below -87.3 it is 0 or the smallest normal numbers, above 88.3 it stays at e^88.3.
inline Vec Exp(Vec x) {
  x = Clamp(x, -87.3f, 88.3f);
  // 2^n with n the nearest whole number of x / ln 2: adding 1.5 * 2^23 leaves it in the low bits.
  const Vec shifted = Fma(x, Set(1.44269504f), Set(12582912.0f));
  const Vec n = shifted - 12582912.0f;
  const Vec power = (Vec)(((IntVec)shifted + (127 - 0x4b400000)) << 23);
  Vec r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  // (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, minimax, relative error 3e-9.
  Vec p = Fma(Set(0.0013814610f), r, Set(0.00836871006f));
  p = Fma(p, r, Set(0.041668389f));
  p = Fma(p, r, Set(0.166665211f));
  p = Fma(p, r, Set(0.49999994f));
  p = Fma(p * r, r, r);
  return Fma(p, power, power);
}

inline Vec Sigmoid(Vec x) {
  return 1.0f / (1.0f + Exp(-x));
}

inline Vec Tanh(Vec x) {
  const Vec size = Abs(x);
  const Vec s = x * x;
  // tanh(x) / x - 1 in x^2 on |x| < 0.65, relative error 7e-9.
  Vec p = Fma(Set(-0.00551516702f), s, Set(0.0204694234f));
  p = Fma(p, s, Set(-0.0536880232f));
  p = Fma(p, s, Set(0.133308306f));
  p = Fma(p, s, Set(-0.333332598f));
  const Vec small = Fma(p * s, x, x);
  const Vec large = 1.0f - 2.0f / (Exp(size + size) + 1.0f);
  return size < Set(0.65f) ? small : x < Set(0.0f) ? -large : large;
}

inline Vec Erf(Vec x) {
  const Vec t = Clamp(Abs(x), 0.0f, 4.0f);
  const Vec s = x * x;
  // erf(x) / x in x^2 on |x| < 1, relative error 1.3e-9.
  Vec p = Fma(Set(7.8540092e-5f), s, Set(-0.000801024202f));
  p = Fma(p, s, Set(0.0051883338f));
  p = Fma(p, s, Set(-0.0268538147f));
  p = Fma(p, s, Set(0.112835854f));
  p = Fma(p, s, Set(-0.37612626f));
  p = Fma(p, s, Set(1.12837911f));
  const Vec small = p * x;
  // -log(1 - erf(t)) / t on 1 <= t <= 4, error in erf 5e-10.
  Vec q = Fma(Set(1.33455452e-5f), t, Set(-0.000344226661f));
  q = Fma(q, t, Set(0.00373073085f));
  q = Fma(q, t, Set(-0.0239514671f));
  q = Fma(q, t, Set(0.106460206f));
  q = Fma(q, t, Set(0.635013998f));
  q = Fma(q, t, Set(1.12868285f));
  const Vec large = 1.0f - Exp(-q * t);
  return t < Set(1.0f) ? small : x < Set(0.0f) ? -large : large;
}

}  // namespace
}  // namespace tokenflow
