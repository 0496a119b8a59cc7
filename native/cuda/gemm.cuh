// Matrix products and convolutions on tensor cores: bf16 in, fp32 accumulation; see gemm.cu.
#pragma once
#include "launch.cuh"
#include "matmul_source.cuh"

namespace tokenflow::cuda {

enum class GemmTile { k128x128, k64x64 };

// A pure function of the shapes and the card. Both tiles add the products of an element in the same order, so the choice
// changes no result.
GemmTile ChooseGemmTile(int rows, int columns, int images, int multiprocessors);

// The pieces of an image's map in Epilogue::moments.
int GemmPieces(int rows);

// y[row][column] = activation(sum_k A W + bias) + residual for each of `count` matrices; y holds bf16 (uint16_t) or
// float, at its fastest with rows that start on 16 bytes, and the residual has the type of y. Columns from w.columns up to `stored_columns` hold what zeros give.
// Moments ask for columns that are a multiple of 8, all of them stored, and a row stride that is one too.
template <class Rows, class Out>
void Gemm(const Rows& a, const PackedColumns<uint16_t>& w, int count, const Epilogue& epilogue, GemmTile tile,
          const ResultRows<Out>& y, int stored_columns, cudaStream_t stream);

}  // namespace tokenflow::cuda
