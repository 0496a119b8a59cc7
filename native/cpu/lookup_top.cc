// The reservoir of a top-k lookup.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/lookup_kernels.h"

namespace tokenflow {

namespace {

// An integer that orders as (score, index) does; scores are never NaN here.
uint64_t OrderKey(float score, int32_t index) {
  const float canonical = score + 0.0f;  // -0 becomes +0
  uint32_t bits;
  std::memcpy(&bits, &canonical, sizeof bits);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(index);
}

float ScoreOfKey(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

}  // namespace

void StartTop(TopState* top, int k) {
  top->threshold = INFINITY;
  top->count = 0;
  top->k = k;
  top->limit = std::min(TopState::kLimit, k + std::max(k, 16));
  std::fill_n(top->scores, 16, INFINITY);
  std::fill_n(top->indices, 16, INT32_MAX);
}

void CutTop(TopState* top) {
  uint64_t keys[TopState::kCapacity];
  for (int i = 0; i < top->count; i++) keys[i] = OrderKey(top->scores[i], top->indices[i]);
  const int kept = std::min(top->count, top->k);
  if (!std::is_sorted(keys, keys + top->count)) std::partial_sort(keys, keys + kept, keys + top->count);
  for (int i = 0; i < kept; i++) {
    top->scores[i] = ScoreOfKey(keys[i]);
    top->indices[i] = static_cast<int32_t>(static_cast<uint32_t>(keys[i]));
  }
  top->count = kept;
  if (kept == top->k) top->threshold = std::min(top->threshold, top->scores[kept - 1]);
}

void FinishTop(TopState* top, Candidate* best) {
  CutTop(top);
  for (int i = 0; i < top->k; i++) {
    best[i] = i < top->count ? Candidate{top->scores[i], top->indices[i]} : Candidate{INFINITY, kNoCode};
  }
}

}  // namespace tokenflow
