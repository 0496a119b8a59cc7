// Matrix products and convolutions on tensor cores: bf16 in, fp32 accumulation; see gemm.cu.
#pragma once
#include "launch.cuh"
#include "matmul_source.cuh"

namespace tokenflow::cuda {

enum class GemmTile { k128x128, k64x64 };

// A pure function of the shapes and the card. Both tiles add the products of an element in the same order, so the choice
// changes no result.
GemmTile ChooseGemmTile(int rows, int columns, int images, int multiprocessors);

// y[image][row][column] = activation(sum_k A W + bias) + residual, y of row stride `stride` (a multiple of 8), stored as bf16
// (uint16_t) or float; the residual has the type of y. Columns from w.columns up to `stored_columns` hold what zeros give.
template <class Rows, class Out>
void Gemm(const Rows& a, const PackedColumns<uint16_t>& w, int images, const Epilogue& epilogue,
          GemmTile tile, Out* y, int64_t stride, int stored_columns, cudaStream_t stream);

}  // namespace tokenflow::cuda
