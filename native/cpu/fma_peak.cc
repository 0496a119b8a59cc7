#include "cpu/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "runtime/cpu_features.h"
#include "runtime/parallel.h"

namespace tokenflow {

double FmaRoundsScalar(int64_t rounds) {
  constexpr int kChains = 8;
  volatile float seed = 1.0f;
  float chain[kChains];
  for (int i = 0; i < kChains; i++) chain[i] = seed + i;
  const float factor = seed * 0.999f;
  for (int64_t round = 0; round < rounds; round++) {
    for (int i = 0; i < kChains; i++) chain[i] = chain[i] * factor + factor;
  }
  for (float value : chain) seed = value;
  return 2.0 * kChains * rounds;
}

double MeasureFmaPeak(int threads) {
  using Clock = std::chrono::steady_clock;
  const CpuFeatures& features = DetectedCpuFeatures();
  const auto rounds = features.avx512 ? FmaRoundsAvx512 : features.avx2 ? FmaRoundsAvx2 : FmaRoundsScalar;
  constexpr int64_t kRounds = 1'000'000;
  double best = 0.0;
  for (int run = 0; run < 8; run++) {
    std::vector<double> operations(threads);
    const auto started = Clock::now();
    OnThreads(threads, [&](int thread) { operations[thread] = rounds(kRounds); });
    const std::chrono::duration<double> elapsed = Clock::now() - started;
    best = std::max(best, std::accumulate(operations.begin(), operations.end(), 0.0) / elapsed.count());
  }
  return best;
}

}  // namespace tokenflow
