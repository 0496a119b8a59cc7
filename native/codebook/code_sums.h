// Which rows belong to each code, and the sum of them: what every way of learning a codebook needs.
//
// Rows are brought into the order of their codes by a stable counting sort, and each code adds up its own rows
// one after the other in double. There is no one-hot matrix and nothing of the size N x K, and the sums depend
// on neither the number of threads nor how the codes are shared out among them.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/queue.h"

namespace tokenflow {

struct RowsByCode {
  // Throws Error on an index out of range.
  RowsByCode(const int32_t* indices, int64_t n, int64_t codes);

  int64_t codes() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t count(int64_t code) const { return begin[code + 1] - begin[code]; }

  std::vector<int64_t> begin;  // [codes + 1]
  std::vector<int64_t> rows;   // [N]: those of code j are rows[begin[j], begin[j + 1]), ascending
};

// body(code) for every code, in parallel, codes with many rows weighing more.
void ForEachCode(const RowsByCode& by_code, const std::function<void(int64_t code)>& body);

// The sum of the rows of one code.
void SumRows(const RowsByCode& by_code, int64_t code,
             const float* x,  // [N][d]
             int dim,
             double* sum);  // [d]

// Rows as unit vectors, by the definition of codebook/score.h.
void NormalizeRows(float* x, int64_t n, int dim);  // [N][d]

inline Error NotFinite(int64_t row) {
  return InvalidArgument("Expected finite vectors but row " + std::to_string(row) + " has NaN or infinity");
}

// The position of the first row that has NaN or infinity; n when all are finite.
int64_t FirstNonFinite(const float* x, int64_t n, int dim);  // [N][d]

// Counts and sums of all codes. Throws Error on an index out of range or a row that is not finite.
void SumByCode(const float* x,          // [N][d]
               const int32_t* indices,  // [N]
               int64_t n, int dim, int64_t codes, bool normalize,
               double* counts,  // [codes]
               double* sums,    // [codes][d]
               const CancelFlag& cancelled);

}  // namespace tokenflow
