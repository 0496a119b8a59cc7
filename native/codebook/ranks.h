// The margin of a query: how much farther its second best code is than its best.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "codebook/score.h"

namespace tokenflow {

// Neighbours to find for k of them and a margin, which wants a second wherever there is one.
constexpr int RanksForMargin(int k, int64_t codes) {
  return static_cast<int>(std::min<int64_t>(codes, std::max(2, k)));
}

// From the `ranks` nearest of a query; the sign of a gap is that of the metric and is dropped.
inline float MarginOf(const int32_t* indices, const float* distances, int ranks) {
  if (indices[0] == kNoCode) return NAN;
  if (ranks < 2 || indices[1] == kNoCode) return INFINITY;
  return std::fabs(distances[1] - distances[0]);
}

}  // namespace tokenflow
