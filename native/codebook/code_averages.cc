#include "codebook/code_averages.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "codebook/code_sums.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kGrain = 256;

// code = the direction of the row; false, and nothing changed, where it has none.
template <class Value>
bool SetToDirection(const Value* row, int dim, float* code) {
  double square = 0;
  for (int e = 0; e < dim; e++) square += double{row[e]} * row[e];
  const double norm = std::sqrt(square);
  if (!(norm > 0)) return false;
  for (int e = 0; e < dim; e++) code[e] = static_cast<float>(row[e] / norm);
  return true;
}

void SetToAverage(const CodeState& state, int64_t code, double count) {
  float* out = state.codes + code * state.dim;
  const double* sum = state.sums + code * state.dim;
  if (state.normalize) {
    SetToDirection(sum, state.dim, out);
  } else {
    for (int e = 0; e < state.dim; e++) out[e] = static_cast<float>(sum[e] / count);
  }
}

}  // namespace

void CheckBatch(const CodeBatch& batch, int64_t size, int dim) {
  for (int64_t code = 0; code < size; code++) {
    if (std::isfinite(batch.counts[code]) && batch.counts[code] >= 0) continue;
    throw InvalidArgument("Expected a number of at least 0 for counts[" + std::to_string(code) +
                          "] but received " + std::to_string(batch.counts[code]));
  }
  for (int64_t i = 0; i < size * dim; i++) {
    if (std::isfinite(batch.sums[i])) continue;
    throw InvalidArgument("Expected a finite number for sums[" + std::to_string(i) + "] but received " +
                          std::to_string(batch.sums[i]));
  }
}

void ApplyMovingAverage(const CodeState& state, const CodeBatch& batch, double decay, double epsilon) {
  const double take = 1 - decay;
  double total = 0;
  for (int64_t code = 0; code < state.size; code++) {
    state.counts[code] = decay * state.counts[code] + take * batch.counts[code];
    total += state.counts[code];
  }
  ParallelRanges(state.size, kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin * state.dim; i < end * state.dim; i++) {
      state.sums[i] = decay * state.sums[i] + take * batch.sums[i];
    }
    if (!(total > 0)) return;
    for (int64_t code = begin; code < end; code++) {
      const double smoothed = (state.counts[code] + epsilon) / (total + state.size * epsilon) * total;
      SetToAverage(state, code, smoothed);
    }
  });
}

void ApplyRunningMean(const CodeState& state, const CodeBatch& batch) {
  ParallelRanges(state.size, kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin * state.dim; i < end * state.dim; i++) state.sums[i] += batch.sums[i];
    for (int64_t code = begin; code < end; code++) {
      if (batch.counts[code] == 0) continue;
      state.counts[code] += batch.counts[code];
      SetToAverage(state, code, state.counts[code]);
    }
  });
}

void TakeRows(const float* x, int64_t n, int dim, const double* rows, int64_t count, bool normalize,
              float* codes) {
  const int64_t wrong = FirstNonFinite(x, n, dim);
  if (wrong < n) throw NotFinite(wrong);
  for (int64_t i = 0; i < count; i++) {
    const float* row = x + static_cast<int64_t>(rows[i]) * dim;
    float* code = codes + i * dim;
    if (!normalize || !SetToDirection(row, dim, code)) std::copy_n(row, dim, code);
  }
}

}  // namespace tokenflow
