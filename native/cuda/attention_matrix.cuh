// Attention by way of the matrix of scores: fp32, and heads too wide for attention.cu; see attention_matrix.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// T is float or uint16_t (bf16). The width of a head is a multiple of 16 bytes.
template <class T>
size_t AttentionMatrixBytes(int64_t images, int tokens, int heads, int width);

// y[b][i][h] = softmax_j(scale q_i . k_j) v_j for each head h.
template <class T>
void AttentionMatrix(const T* qkv,  // [images][tokens][3 heads width]: q, k, v side by side
                     int64_t images, int tokens, int heads, int width, float scale, int multiprocessors,
                     T* y,  // [images][tokens][heads width]
                     void* workspace, cudaStream_t stream);

}  // namespace tokenflow::cuda
