// How codes follow the vectors that chose them, batch by batch: exponential moving averages and running means, in
// double, one code at a time, so that the number of threads changes nothing.
#pragma once
#include <cstdint>

namespace tokenflow {

// The codes and what stands behind them; changed in place.
struct CodeState {
  float* codes;    // [size][dim]
  double* counts;  // [size]
  double* sums;    // [size][dim]
  int64_t size;
  int dim;
  bool normalize;  // codes are directions: unit vectors
};

// What a batch adds (SumByCode).
struct CodeBatch {
  const double* counts;  // [size], at least 0
  const double* sums;    // [size][dim]
};

// Throws Error where the batch is not finite or a count is negative.
void CheckBatch(const CodeBatch& batch, int64_t size, int dim);

// counts = decay counts + (1 - decay) batch, sums likewise, and every code its sum over its count, the counts smoothed
// by epsilon (Laplace). Codes stay while nothing was ever counted.
void ApplyMovingAverage(const CodeState& state, const CodeBatch& batch, double decay, double epsilon);

// counts += batch, sums likewise; the codes that were chosen move to the mean of all that ever chose them.
void ApplyRunningMean(const CodeState& state, const CodeBatch& batch);

// codes[i] = row rows[i] of x, as a unit vector where `normalize`; a zero row stays zero. Throws Error where x is not
// finite.
void TakeRows(const float* x,  // [n][dim]
              int64_t n, int dim,
              const double* rows,  // [count], whole numbers below n
              int64_t count, bool normalize,
              float* codes);  // [count][dim]

}  // namespace tokenflow
