// A 64-bit integer that orders as (score, number) does, so that one atomicMin merges the results of any number of blocks
// in any order: the low half is the number, the high half the score's bits turned into an unsigned order. -0 becomes +0,
// so equal scores are decided by the number. Scores are never NaN here.
#pragma once
#include "bf16.cuh"

namespace tokenflow::cuda {

HOST_DEVICE uint64_t ScoreKey(float score, uint32_t number) {
  const uint32_t bits = FloatToBits(score + 0.0f);
  const uint32_t ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(ordered) << 32 | number;
}

HOST_DEVICE uint32_t NumberOfKey(uint64_t key) {
  return static_cast<uint32_t>(key);
}

}  // namespace tokenflow::cuda
