// Matrix products and convolutions in fp32, each element one chain of fused multiply-adds; see sgemm.cu.
#pragma once
#include "launch.cuh"
#include "matmul_source.cuh"

namespace tokenflow::cuda {

// y[row][column] = activation(chain + bias) + residual for each of `count` matrices; the residual is float.
template <class Rows>
void Sgemm(const Rows& a, const PackedColumns<float>& w, int count, const Epilogue& epilogue,
           int multiprocessors, const ResultRows<float>& y, cudaStream_t stream);

}  // namespace tokenflow::cuda
