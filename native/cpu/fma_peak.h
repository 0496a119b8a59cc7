// The fused multiply-add rate of the processor, which benchmarks hold the kernels against.
#pragma once
#include <cstdint>

namespace tokenflow {

// Runs `rounds` of independent register-to-register FMAs and returns the floating-point operations done.
double FmaRoundsScalar(int64_t rounds);
double FmaRoundsAvx2(int64_t rounds);    // ask cpu_features.h first
double FmaRoundsAvx512(int64_t rounds);  // likewise

// fp32 operations per second of `threads` threads at once, the best of several short runs, at the best level
// the processor has, whatever level is in force.
double MeasureFmaPeak(int threads);

}  // namespace tokenflow
