// From the places of a lookup to those that were asked for; see ranks.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// The first `k` of each row's `ranks`.
void TakeRanks(const void* from,  // [rows][ranks] of 4 bytes
               int64_t rows, int ranks, int k,
               void* to,  // [rows][k]
               cudaStream_t stream);

// codebook/ranks.h for each row.
void Margins(const int32_t* indices, const float* distances,  // [rows][ranks]
             int64_t rows, int ranks,
             float* margins,  // [rows]
             cudaStream_t stream);

// *first = the smallest row (counted from `base`) whose first index is kNoCode, if that is smaller than what is there.
void FirstMissing(const int32_t* indices,  // [rows][ranks]
                  int64_t rows, int ranks, int64_t base, unsigned long long* first, cudaStream_t stream);

}  // namespace tokenflow::cuda
