// Rows of vectors checked and made ready; see rows.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// *first = the first row with NaN or infinity, if that is smaller than what is there.
void FirstNonFinite(const float* x,  // [n][dim]
                    int64_t n, int dim, unsigned long long* first, cudaStream_t stream);

// Rows as unit vectors by the definition of codebook/score.h, in place.
void NormalizeRows(float* x, int64_t n, int dim, cudaStream_t stream);  // [n][dim]

}  // namespace tokenflow::cuda
