// Where PyTorch's bicubic resize reads: a = -0.75, half-pixel centres, borders clamped, no antialiasing.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace tokenflow {

// The four places a coordinate of the result comes from; plain data, so that kernels may read it.
struct BicubicTaps {
  int32_t at[4];
  float weight[4];
};

// [to]; the weights in fp32 as PyTorch computes them.
inline std::vector<BicubicTaps> BicubicTapsFor(int64_t from, int64_t to) {
  constexpr float kA = -0.75f;
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const auto near = [](float x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; };
  const auto far = [](float x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; };
  std::vector<BicubicTaps> taps;
  for (int64_t i = 0; i < to; i++) {
    const float source = scale * (static_cast<float>(i) + 0.5f) - 0.5f;
    const float floor = std::floor(source);
    const float t = source - floor;
    BicubicTaps tap{{}, {far(t + 1), near(t), near(1 - t), far(2 - t)}};
    for (int64_t k = 0; k < 4; k++) {
      tap.at[k] = static_cast<int32_t>(std::clamp<int64_t>(static_cast<int64_t>(floor) - 1 + k, 0, from - 1));
    }
    taps.push_back(tap);
  }
  return taps;
}

}  // namespace tokenflow
