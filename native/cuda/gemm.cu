// y[m][n] = activation(sum_k A[m][k] W[n][k] + bias) + residual on tensor cores: every linear layer and convolution of a
// bf16 program. A comes from a matrix or from the windows of an image (matmul_source.cuh), W is packed with k contiguous.
//
// Tile 128 x 128 x 32 by 8 warps of 64 x 32 (two blocks a multiprocessor), or 64 x 64 x 32 by 4 warps of 32 x 32 when there
// are few rows. A ring of three stages filled by cp.async, one barrier per stage; 64-byte rows, swizzled (tensor_tile.cuh).
// Tiles never straddle images, so a block has one image pointer and an image's result cannot depend on its neighbours.
// The grid is one-dimensional with the columns fastest: blocks in flight share the rows of A, which then come from L2.
//
// A thread owns 8 neighbouring columns of a row (the column permutation), so bias, activation, residual and the result are
// 16- or 32-byte accesses straight from registers. Where a group norm follows, the moments of every strip of 32 rows are taken
// from there too (moments.cuh): either tile is made of the same strips.
#include "activation.cuh"
#include "cp_async.cuh"
#include "gemm.cuh"
#include "row8.cuh"
#include "tensor_tile.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kStages = 3;

template <class Rows, class Out>
struct GemmArgs {
  Rows a;
  PackedColumns<uint16_t> w;
  Epilogue epilogue;
  ResultRows<Out> y;
  int stored_columns;
  int row_tiles, column_tiles;
  int stages;  // of k
};

template <int kTile>
struct Shape;
template <>
struct Shape<128> {
  static constexpr int kThreads = 256, kWarpRows = 64, kWarpColumns = 32, kBlocks = 2;
};
template <>
struct Shape<64> {
  static constexpr int kThreads = 128, kWarpRows = 32, kWarpColumns = 32, kBlocks = 3;
};

template <class Rows, class Out, int kTile>
__global__ void __launch_bounds__(Shape<kTile>::kThreads, Shape<kTile>::kBlocks)
    GemmKernel(GemmArgs<Rows, Out> a) {
  SHARED_MEMORY(shared);
  using S = Shape<kTile>;
  constexpr int kMatrixBytes = kTile * kRowBytes;
  constexpr int kStageBytes = 2 * kMatrixBytes;
  constexpr int kRowStep = S::kThreads / kRowChunks;  // rows between two chunks of a thread
  constexpr int kOwned = kTile / kRowStep;
  static_assert(kRowStep % 32 == 0, "a thread's rows have the same swizzle");
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  constexpr int kWarpsDown = kTile / S::kWarpRows;
  const int warp_row = warp % kWarpsDown * S::kWarpRows, warp_column = warp / kWarpsDown * S::kWarpColumns;

  int block = static_cast<int>(blockIdx.x);
  const int column0 = block % a.column_tiles * kTile;
  block /= a.column_tiles;
  const int row0 = block % a.row_tiles * kTile;
  const int image = block / a.row_tiles;

  const int row = thread / kRowChunks, chunk = thread % kRowChunks;
  Source<Rows, kOwned> source(a.a, image, chunk);
#pragma unroll
  for (int i = 0; i < kOwned; i++) source.SetRow(a.a, i, row0 + row + i * kRowStep);
  const uint16_t* weights = a.w.w + a.w.batch.At(image);
  const uint16_t* weight = weights + (column0 + row) * a.w.row_stride + chunk * 8;
  int k_left = DepthOf(a.a) - chunk * 8;
  const auto issue = [&](int stage) {
    unsigned char* base = shared + stage * kStageBytes;
#pragma unroll
    for (int i = 0; i < kOwned; i++) {
      int bytes;
      const uint16_t* from = source.Address(a.a, i, &bytes);
      CopyAsync16(base + OffsetA(row, chunk) + i * kRowStep * kRowBytes, from, bytes);
      const bool column_inside = column0 + row + i * kRowStep < a.w.columns && k_left > 0;
      CopyAsync16(base + kMatrixBytes + OffsetB(row, chunk) + i * kRowStep * kRowBytes,
                  column_inside ? weight + i * kRowStep * a.w.row_stride : weights, column_inside ? 16 : 0);
    }
    source.Next(a.a);
    weight += kStageK;
    k_left -= kStageK;
  };

#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    if (s < a.stages) issue(s);
    CommitAsync();
  }
  TensorTile<S::kWarpRows, S::kWarpColumns> tile;
  tile.Clear();
  int stage = 0;
#pragma unroll 1
  for (int k = 0; k < a.stages; k++) {
    WaitAsync<kStages - 2>();
    __syncthreads();  // this stage is complete for everyone, and everyone has left the one to be filled
    if (k + kStages - 1 < a.stages) issue(stage == 0 ? kStages - 1 : stage - 1);
    CommitAsync();
    const unsigned char* base = shared + stage * kStageBytes;
    tile.Multiply(base, base + kMatrixBytes, warp_row, warp_column, lane);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  WaitAsync<0>();

  const int g = lane >> 2, t = lane & 3, rows = RowsOf(a.a);
  Out* y = a.y.y + a.y.batch.At(image);
  const Out* residual = static_cast<const Out*>(a.epilogue.residual);
  if (residual != nullptr) residual += a.y.batch.At(image);
#pragma unroll
  for (int q = 0; q < S::kWarpColumns / 32; q++) {
    const int column = column0 + warp_column + 32 * q + 8 * t;
    const bool column_inside = column < a.stored_columns;
    float bias[8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const bool has = a.epilogue.bias != nullptr && !a.epilogue.bias_by_row && column + e < a.w.columns;
      bias[e] = has ? a.epilogue.bias[column + e] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < S::kWarpRows / 16; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = row0 + warp_row + 16 * i + g + 8 * h;
        if (r >= rows || !column_inside) continue;
        const float row_bias = a.epilogue.bias_by_row ? a.epilogue.bias[r] : 0.0f;
        float v[8];
#pragma unroll
        for (int e = 0; e < 8; e++)
          v[e] = Activate(a.epilogue.activation, tile.at(i, h, q, e) + (bias[e] + row_bias));
        const int64_t at = r * a.y.row_stride + column;
        FinishRow8(y + at, residual == nullptr ? nullptr : residual + at, a.stored_columns - column,
                   a.y.row_stride % 8 == 0, v);
#pragma unroll
        for (int e = 0; e < 8; e++) tile.at(i, h, q, e) = v[e];
      }
    }
    if (a.epilogue.moments.at == nullptr) continue;
#pragma unroll
    for (int strip = 0; strip < S::kWarpRows / 32; strip++) {
      const int first = row0 + warp_row + 32 * strip;
      StoreStripMoments(
          tile, strip, q, lane, max(0, min(32, rows - first)),
          [&](int i, int h) { return row0 + warp_row + 16 * i + g + 8 * h < rows; }, a.epilogue.moments,
          image, first / 32, column, column_inside);
    }
  }
}

template <int kTile, class Rows, class Out>
void Start(GemmArgs<Rows, Out> args, int count, cudaStream_t stream) {
  args.row_tiles = DivideUp(RowsOf(args.a), kTile);
  args.column_tiles = DivideUp(args.stored_columns, kTile);
  args.stages = DivideUp(DepthOf(args.a), kStageK);
  const int64_t blocks = static_cast<int64_t>(args.row_tiles) * args.column_tiles * count;
  if (blocks == 0) return;
  Launch(GemmKernel<Rows, Out, kTile>, dim3(static_cast<unsigned>(blocks)), dim3(Shape<kTile>::kThreads),
         kStages * 2 * kTile * kRowBytes, stream, args);
}

}  // namespace

int GemmPieces(int rows) {
  return DivideUp(rows, 32);
}

GemmTile ChooseGemmTile(int rows, int columns, int images, int multiprocessors) {
  // A 64 x 64 tile moves twice the bytes per product, so it has to fill a card that the large one leaves half empty.
  const int64_t large = static_cast<int64_t>(DivideUp(rows, 128)) * DivideUp(columns, 128) * images;
  return large >= multiprocessors ? GemmTile::k128x128 : GemmTile::k64x64;
}

template <class Rows, class Out>
void Gemm(const Rows& a, const PackedColumns<uint16_t>& w, int count, const Epilogue& epilogue, GemmTile tile,
          const ResultRows<Out>& y, int stored_columns, cudaStream_t stream) {
  const GemmArgs<Rows, Out> args{a, w, epilogue, y, stored_columns, 0, 0, 0};
  if (tile == GemmTile::k128x128) {
    Start<128>(args, count, stream);
  } else {
    Start<64>(args, count, stream);
  }
}

using Low = uint16_t;
template void Gemm(const MatrixRows<Low>&, const PackedColumns<Low>&, int, const Epilogue&, GemmTile,
                   const ResultRows<Low>&, int, cudaStream_t);
template void Gemm(const MatrixRows<Low>&, const PackedColumns<Low>&, int, const Epilogue&, GemmTile,
                   const ResultRows<float>&, int, cudaStream_t);
template void Gemm(const WindowRows<Low>&, const PackedColumns<Low>&, int, const Epilogue&, GemmTile,
                   const ResultRows<Low>&, int, cudaStream_t);
template void Gemm(const WindowRows<Low>&, const PackedColumns<Low>&, int, const Epilogue&, GemmTile,
                   const ResultRows<float>&, int, cudaStream_t);

}  // namespace tokenflow::cuda
