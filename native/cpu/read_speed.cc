#include "cpu/read_speed.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "codebook/aligned.h"
#include "runtime/cpu_features.h"
#include "runtime/parallel.h"

namespace tokenflow {

float ReadFloatsScalar(const float* x, int64_t n) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) sums[lane] += x[i + lane];
  }
  float sum = 0.0f;
  for (const float value : sums) sum += value;
  return sum;
}

double MeasureRead(int64_t bytes, int threads) {
  using Clock = std::chrono::steady_clock;
  const CpuFeatures& features = DetectedCpuFeatures();
  const auto read = features.avx512 ? ReadFloatsAvx512 : features.avx2 ? ReadFloatsAvx2 : ReadFloatsScalar;
  constexpr int kRuns = 101;
  const int64_t share = (bytes / int64_t{sizeof(float)} / threads + 63) / 64 * 64;
  const AlignedVector<float> floats(share * threads, 1.0f);
  std::vector<float> sums(threads);
  std::vector<double> seconds;
  for (int run = 0; run < kRuns; run++) {
    const auto started = Clock::now();
    OnThreads(threads, [&](int thread) { sums[thread] = read(floats.data() + thread * share, share); });
    seconds.push_back(std::chrono::duration<double>(Clock::now() - started).count());
  }
  volatile float seen = sums[0];  // or nothing need be read
  static_cast<void>(seen);
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

}  // namespace tokenflow
