// Layer normalisation over the last axis; see layer_norm.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias per row, biased variance. channels a multiple of 8. In and Out are
// float or uint16_t (bf16).
template <class In, class Out>
void LayerNorm(const In* x,  // [rows][channels]
               int64_t rows, int channels, const float* weight, const float* bias, float epsilon,
               Out* y,  // [rows][channels]
               cudaStream_t stream);

}  // namespace tokenflow::cuda
