// Activations of conv2d and linear (lib/graph/ops.ts), with polynomials of fused multiply-adds instead of the device
// library's functions, so that the f32 path gives the same bits on every card. They are the ones of cpu/vector.h.
#pragma once
#include "bf16.cuh"
#include "runtime/activation.h"

namespace tokenflow::cuda {

// Not a number stays one.
DEVICE float Clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// e^x within 2 ulp; below -87.3 it is 0 or the smallest normal numbers, above 88.3 it stays at e^88.3.
DEVICE float Exp(float x) {
  x = Clamp(x, -87.3f, 88.3f);
  // 2^n with n the nearest whole number of x / ln 2: adding 1.5 * 2^23 leaves it in the low bits.
  const float shifted = fmaf(x, 1.44269504f, 12582912.0f);
  const float n = shifted - 12582912.0f;
  const float power = __uint_as_float((__float_as_uint(shifted) + (127u - 0x4b400000u)) << 23);
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float p = fmaf(0.0013814610f, r, 0.00836871006f);
  p = fmaf(p, r, 0.041668389f);
  p = fmaf(p, r, 0.166665211f);
  p = fmaf(p, r, 0.49999994f);
  p = fmaf(p * r, r, r);
  return fmaf(p, power, power);
}

DEVICE float Sigmoid(float x) {
  return __fdiv_rn(1.0f, 1.0f + Exp(-x));
}

DEVICE float Tanh(float x) {
  const float size = fabsf(x), s = x * x;
  if (size < 0.65f) {
    float p = fmaf(-0.00551516702f, s, 0.0204694234f);
    p = fmaf(p, s, -0.0536880232f);
    p = fmaf(p, s, 0.133308306f);
    p = fmaf(p, s, -0.333332598f);
    return fmaf(p * s, x, x);
  }
  const float large = 1.0f - __fdiv_rn(2.0f, Exp(size + size) + 1.0f);
  return x < 0.0f ? -large : large;
}

DEVICE float Erf(float x) {
  const float t = Clamp(fabsf(x), 0.0f, 4.0f);
  if (t < 1.0f) {
    const float s = x * x;
    float p = fmaf(7.8540092e-5f, s, -0.000801024202f);
    p = fmaf(p, s, 0.0051883338f);
    p = fmaf(p, s, -0.0268538147f);
    p = fmaf(p, s, 0.112835854f);
    p = fmaf(p, s, -0.37612626f);
    p = fmaf(p, s, 1.12837911f);
    return p * x;
  }
  float q = fmaf(1.33455452e-5f, t, -0.000344226661f);
  q = fmaf(q, t, 0.00373073085f);
  q = fmaf(q, t, -0.0239514671f);
  q = fmaf(q, t, 0.106460206f);
  q = fmaf(q, t, 0.635013998f);
  q = fmaf(q, t, 1.12868285f);
  const float large = 1.0f - Exp(-q * t);
  return x < 0.0f ? -large : large;
}

DEVICE float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kGelu:
      return 0.5f * x * (1.0f + Erf(x * 0.70710678f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + Tanh(0.79788456f * fmaf(x * x * x, 0.044715f, x)));
    case Activation::kQuickGelu:
      return x * Sigmoid(1.702f * x);
    case Activation::kSwish:
      return x * Sigmoid(x);
    default:
      return x;
  }
}

// A group norm applied, wherever that happens.
DEVICE float Normalised(float x, float scale, float shift, bool swish) {
  const float v = fmaf(x, scale, shift);
  return swish ? v * Sigmoid(v) : v;
}

}  // namespace tokenflow::cuda
