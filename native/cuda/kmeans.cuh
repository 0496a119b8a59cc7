// Passes over the rows of k-means; see kmeans.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

constexpr int64_t kSumBlock = 4096;  // values of one partial sum, as in codebook/kmeans_rows.cc

// nearest[i] = min(nearest[i], squared distance of row i from the code), or that distance where it is the first.
void LowerNearest(const float* x,  // [n][dim]
                  int64_t n, int dim,
                  const float* code,  // [dim]
                  bool first,
                  float* nearest,  // [n]
                  cudaStream_t stream);

// sums[b] = the values of block b one after the other, in double.
void BlockSums(const float* values, int64_t n, double* sums, cudaStream_t stream);

// *count += positions where the two differ.
void CountDifferent(const int32_t* a, const int32_t* b, int64_t n, unsigned long long* count,
                    cudaStream_t stream);

}  // namespace tokenflow::cuda
