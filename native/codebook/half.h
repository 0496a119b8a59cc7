// 16-bit floats to float32: exact, so where it is done never shows.
#pragma once
#include <cstdint>
#include <cstring>

namespace tokenflow {

inline float FloatOfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float FloatOfBFloat16(uint16_t value) {
  return FloatOfBits(static_cast<uint32_t>(value) << 16);
}

inline float FloatOfHalf(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000) << 16;
  const uint32_t exponent = value >> 10 & 31, fraction = value & 1023;
  if (exponent == 31) return FloatOfBits(sign | 0x7f800000 | fraction << 13);
  if (exponent != 0) return FloatOfBits(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal
  return sign ? -small : small;
}

}  // namespace tokenflow
