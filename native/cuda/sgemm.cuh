// Matrix products and convolutions in fp32, each element one chain of fused multiply-adds; see sgemm.cu.
#pragma once
#include "launch.cuh"
#include "matmul_source.cuh"

namespace tokenflow::cuda {

// y[image][row][column] = activation(chain + bias) + residual, y of row stride `stride`; residual float, as y, may be y.
template <class Rows>
void Sgemm(const Rows& a, const PackedColumns<float>& w, int images, const Epilogue& epilogue,
           int multiprocessors, float* y, int64_t stride, cudaStream_t stream);

}  // namespace tokenflow::cuda
