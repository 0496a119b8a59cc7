// Matrix products and convolutions in fp32, each element one chain of fused multiply-adds; see sgemm.cu.
#pragma once
#include "launch.cuh"
#include "matmul_source.cuh"

namespace tokenflow::cuda {

// The pieces of an image's map in Epilogue::moments.
int SgemmPieces(int rows);

// y[row][column] = activation(chain + bias) + residual for each of `count` matrices; the residual is float.
// Moments ask for columns that are a multiple of 4.
template <class Rows>
void Sgemm(const Rows& a, const PackedColumns<float>& w, int count, const Epilogue& epilogue,
           int multiprocessors, const ResultRows<float>& y, cudaStream_t stream);

}  // namespace tokenflow::cuda
