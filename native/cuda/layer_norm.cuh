// Layer normalisation over the last axis; see layer_norm.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias per row, biased variance. In and Out are float or uint16_t (bf16);
// y may be x when they are the same. Rows, weight and bias have their channels padded with zeros to the next multiple of 8.
template <class In, class Out>
void LayerNorm(const In* x,  // [rows][channels to 8]
               int64_t rows, int channels, const float* weight, const float* bias, float epsilon,
               Out* y,  // [rows][channels to 8]
               cudaStream_t stream);

}  // namespace tokenflow::cuda
