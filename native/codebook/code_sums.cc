#include "codebook/code_sums.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kGrain = 1024;
constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kAhead = 8;  // rows fetched before they are added: they lie all over the memory

}  // namespace

RowsByCode::RowsByCode(const int32_t* indices, int64_t n, int64_t codes) : begin(codes + 1), rows(n) {
  for (int64_t i = 0; i < n; i++) {
    if (indices[i] < 0 || indices[i] >= codes) {
      throw InvalidArgument("Expected indices from 0 to " + std::to_string(codes - 1) + " but received " +
                            std::to_string(indices[i]) + " at position " + std::to_string(i));
    }
    begin[indices[i] + 1]++;
  }
  for (int64_t j = 0; j < codes; j++) begin[j + 1] += begin[j];
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (int64_t i = 0; i < n; i++) rows[next[indices[i]]++] = i;
}

void ForEachCode(const RowsByCode& by_code, const std::function<void(int64_t code)>& body) {
  const int64_t codes = by_code.codes(), tasks = std::min(codes, kTasksPerThread * Threads());
  // A code's work is its rows and a little: cut where the running total passes each task's share.
  const int64_t total = static_cast<int64_t>(by_code.rows.size()) + codes;
  const auto cut = [&](int64_t task) {
    const int64_t wanted = total * task / tasks;
    int64_t low = 0, high = codes;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (by_code.begin[middle] + middle < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  ParallelTasks(tasks, [&](int64_t task) {
    const int64_t end = task + 1 == tasks ? codes : cut(task + 1);
    for (int64_t code = cut(task); code < end; code++) body(code);
  });
}

void SumRows(const RowsByCode& by_code, int64_t code, const float* x, int dim, double* sum) {
  std::fill_n(sum, dim, 0.0);
  const int64_t end = by_code.begin[code + 1];
  for (int64_t i = by_code.begin[code]; i < end; i++) {
    if (i + kAhead < end) {
      const float* later = x + by_code.rows[i + kAhead] * dim;
      for (int k = 0; k < dim; k += 16) __builtin_prefetch(later + k);
    }
    const float* row = x + by_code.rows[i] * dim;
    for (int k = 0; k < dim; k++) sum[k] += row[k];
  }
}

void NormalizeRows(float* x, int64_t n, int dim) {
  ParallelRanges(n, kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      float* v = x + row * dim;
      float sum = 0.0f;
      for (int k = 0; k < dim; k++) sum = std::fma(v[k], v[k], sum);
      const float norm = std::sqrt(sum);
      for (int k = 0; k < dim; k++) v[k] = norm > 0.0f ? v[k] / norm : 0.0f;
    }
  });
}

int64_t FirstNonFinite(const float* x, int64_t n, int dim) {
  for (int64_t i = 0; i < n * dim; i++) {
    if (!std::isfinite(x[i])) return i / dim;
  }
  return n;
}

void SumByCode(const float* x, const int32_t* indices, int64_t n, int dim, int64_t codes, bool normalize,
               double* counts, double* sums, const CancelFlag& cancelled) {
  const int64_t wrong = FirstNonFinite(x, n, dim);
  if (wrong < n) throw NotFinite(wrong);
  const RowsByCode by_code(indices, n, codes);
  std::vector<float> units;
  if (normalize) {
    units.assign(x, x + n * dim);
    NormalizeRows(units.data(), n, dim);
    x = units.data();
  }
  ForEachCode(by_code, [&](int64_t code) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    counts[code] = static_cast<double>(by_code.count(code));
    SumRows(by_code, code, x, dim, sums + code * dim);
  });
}

}  // namespace tokenflow
