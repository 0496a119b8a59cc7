// Which rows belong to each code, and sums over them; see rows_by_code.cu.
#pragma once
#include "arena.h"
#include "launch.cuh"

namespace tokenflow::cuda {

constexpr int64_t kMostSortedRows = int64_t{1} << 30;  // row numbers are 32 bits wide

// codebook/code_sums.h's RowsByCode on a card.
struct SortedRows {
  int64_t n = 0, codes = 0;
  int32_t* rows = nullptr;   // [n]: those of code j are rows[begin[j], begin[j + 1]), ascending
  int32_t* begin = nullptr;  // [codes + 1]
  // What sorting works with.
  int32_t *keys[2] = {}, *spare = nullptr;
  uint32_t* counts = nullptr;

  SortedRows() = default;
  // Takes its memory; with an arena that only counts, says how much that is.
  SortedRows(Arena& arena, int64_t n, int64_t codes);
};

// *first = the first position whose index is not below `codes`, if that is smaller than what is there. Nothing else may be
// asked about such indices.
void FirstOutOfRange(const int32_t* indices, int64_t n, int64_t codes, unsigned long long* first,
                     cudaStream_t stream);

void SortByCode(const int32_t* indices, const SortedRows& sorted, cudaStream_t stream);  // [n]

// sums[j] = sum of the rows of code j, one after the other in double.
void SumRows(const SortedRows& sorted, const float* x,  // [n][dim]
             int dim,
             double* sums,  // [codes][dim]
             cudaStream_t stream);

// found[i] = the row of code `which[i]` with the largest value, the first of equal ones.
void FarthestRows(const SortedRows& sorted, const float* values,  // [n]
                  const int32_t* which, int64_t count, int32_t* found, cudaStream_t stream);

}  // namespace tokenflow::cuda
