// Attention over packed q, k, v without the matrix of scores; see attention.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

constexpr int kMaxHeadWidth = 128;

// y[b][i][h] = softmax_j(scale q_i . k_j) v_j for each head h. The width of a head is a multiple of 8, at most kMaxHeadWidth.
void Attention(const uint16_t* qkv,  // bf16 [images][tokens][3 heads width]: q, k, v side by side
               int64_t images, int tokens, int heads, int width, float scale,
               uint16_t* y,  // bf16 [images][tokens][heads width]
               cudaStream_t stream);

}  // namespace tokenflow::cuda
