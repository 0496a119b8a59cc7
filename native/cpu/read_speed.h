// How long the processor takes to read floats from its caches, which benchmarks hold small lookups against: a lookup of a
// few queries can be no faster than one pass over the codes.
#pragma once
#include <cstdint>

namespace tokenflow {

// The sum of the floats, in an order of its own; n a multiple of 64.
float ReadFloatsScalar(const float* x, int64_t n);
float ReadFloatsAvx2(const float* x, int64_t n);    // ask cpu_features.h first
float ReadFloatsAvx512(const float* x, int64_t n);  // likewise

// Median seconds of `threads` threads reading that many bytes once between them, again and again, at the best level the
// processor has.
double MeasureRead(int64_t bytes, int threads);

}  // namespace tokenflow
