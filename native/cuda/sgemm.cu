// y[m][n] = activation(sum_k A[m][k] W[n][k] + bias) + residual in fp32 on the FMA units: the f32 mode of every linear layer
// and convolution. Each sum is one chain of fused multiply-adds from +0 over ascending k, as in the CPU's direct kernels: the
// same bits at any tile, batch and card, and those of a scalar loop. No tensor core, no split of k.
//
// Block: 128 x 128 or 64 x 64 outputs, 256 threads as 16 x 16; thread (tx, ty) owns rows ty + 16 i and columns tx + 16 j. The
// ring of three stages holds 16 k: rows of 64 bytes, swizzled (swizzle.cuh), filled by cp.async, one barrier a stage. Every
// float4 a thread loads feeds four steps of each chain; half of its columns are multiplied at a time, which keeps the 64
// accumulators, 16 column fragments and 4 row fragments within 128 registers.
//
// Where a group norm follows, every warp leaves the moments of its outputs (moments.cuh), from registers.
#include "activation.cuh"
#include "cp_async.cuh"
#include "sgemm.cuh"
#include "swizzle.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kStages = 3;
constexpr int kChunks = 4;
constexpr int kStageK = kChunks * 4;
constexpr int kRowBytes = kStageK * 4;
constexpr int kPiecesOf64Rows = kThreads / 32;  // of the moments
constexpr int kRowStep = kThreads / kChunks;    // rows between two chunks of a thread

template <class Rows>
struct SgemmArgs {
  Rows a;
  PackedColumns<float> w;
  Epilogue epilogue;
  ResultRows<float> y;
  int row_tiles, column_tiles;
  int stages;  // of k
};

template <int kOwned>
DEVICE void MultiplyStage(float (&acc)[kOwned][kOwned], const unsigned char* a, const unsigned char* w,
                          int tx, int ty) {
  constexpr int kSixteenRows = 16 * kRowBytes;  // the swizzle is the same 16 rows further
#pragma unroll 1
  for (int c = 0; c < kChunks; c++) {
    const unsigned char* rows = a + SwizzledOffset<kChunks>(ty, c);
    const unsigned char* columns = w + SwizzledOffset<kChunks>(tx, c);
#pragma unroll
    for (int half = 0; half < kOwned; half += 4) {
      float4 column[4];
#pragma unroll
      for (int j = 0; j < 4; j++) column[j] = LoadShared<float4>(columns + (half + j) * kSixteenRows);
#pragma unroll
      for (int i = 0; i < kOwned; i++) {
        const float4 row = LoadShared<float4>(rows + i * kSixteenRows);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(row.x, column[j].x, acc[i][half + j]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(row.y, column[j].y, acc[i][half + j]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(row.z, column[j].z, acc[i][half + j]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(row.w, column[j].w, acc[i][half + j]);
      }
    }
  }
}

template <class Rows, int kTile>
__global__ void __launch_bounds__(kThreads, 2) SgemmKernel(SgemmArgs<Rows> a) {
  SHARED_MEMORY(shared);
  constexpr int kMatrixBytes = kTile * kRowBytes;
  constexpr int kStageBytes = 2 * kMatrixBytes;
  constexpr int kCopies = kTile / kRowStep;
  constexpr int kOwned = kTile / 16;
  const int thread = static_cast<int>(threadIdx.x), tx = thread & 15, ty = thread >> 4;
  int block = static_cast<int>(blockIdx.x);
  const int column0 = block % a.column_tiles * kTile;
  block /= a.column_tiles;
  const int row0 = block % a.row_tiles * kTile;
  const int image = block / a.row_tiles;

  const int row = thread / kChunks, chunk = thread % kChunks;
  Source<Rows, kCopies> source(a.a, image, chunk);
#pragma unroll
  for (int i = 0; i < kCopies; i++) source.SetRow(a.a, i, row0 + row + i * kRowStep);
  const float* weights = a.w.w + a.w.batch.At(image);
  const float* weight = weights + (column0 + row) * a.w.row_stride + chunk * 4;
  int k_left = DepthOf(a.a) - chunk * 4;
  const auto issue = [&](int stage) {
    unsigned char* base = shared + stage * kStageBytes + SwizzledOffset<kChunks>(row, chunk);
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      int bytes;
      const float* from = source.Address(a.a, i, &bytes);
      CopyAsync16(base + i * kRowStep * kRowBytes, from, bytes);
      const bool inside = column0 + row + i * kRowStep < a.w.columns && k_left > 0;
      CopyAsync16(base + kMatrixBytes + i * kRowStep * kRowBytes,
                  inside ? weight + i * kRowStep * a.w.row_stride : weights, inside ? 16 : 0);
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
  float acc[kOwned][kOwned];
#pragma unroll
  for (int i = 0; i < kOwned; i++) {
#pragma unroll
    for (int j = 0; j < kOwned; j++) acc[i][j] = 0.0f;
  }
  int stage = 0;
#pragma unroll 1
  for (int k = 0; k < a.stages; k++) {
    WaitAsync<kStages - 2>();
    __syncthreads();  // this stage is complete for everyone, and everyone has left the one to be filled
    if (k + kStages - 1 < a.stages) issue(stage == 0 ? kStages - 1 : stage - 1);
    CommitAsync();
    const unsigned char* base = shared + stage * kStageBytes;
    MultiplyStage(acc, base, base + kMatrixBytes, tx, ty);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  WaitAsync<0>();

  const int rows = RowsOf(a.a);
  float* y = a.y.y + a.y.batch.At(image);
  const float* residual = static_cast<const float*>(a.epilogue.residual);
  if (residual != nullptr) residual += a.y.batch.At(image);
#pragma unroll
  for (int i = 0; i < kOwned; i++) {
    const int r = row0 + ty + 16 * i;
    if (r >= rows) continue;
#pragma unroll
    for (int j = 0; j < kOwned; j++) {
      const int column = column0 + tx + 16 * j;
      if (column >= a.w.columns) continue;
      float v = acc[i][j];
      if (a.epilogue.bias != nullptr) v += a.epilogue.bias[a.epilogue.bias_by_row ? r : column];
      v = Activate(a.epilogue.activation, v);
      const int64_t at = r * a.y.row_stride + column;
      if (residual != nullptr) v += residual[at];
      y[at] = v;
      acc[i][j] = v;
    }
  }
  if (a.epilogue.moments.at == nullptr) return;
  // A warp has rows 2 warp, 2 warp + 1 of every 16; four such pairs, 64 rows apart in all, are a piece.
  const int warp = thread >> 5, lane = thread & 31;
#pragma unroll
  for (int i0 = 0; i0 < kOwned; i0 += 4) {
    const int first = row0 + 16 * i0 + 2 * warp, piece = (row0 / 64 + i0 / 4) * kPiecesOf64Rows + warp;
    int inside = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) inside += max(0, min(2, rows - first - 16 * i));
    const float count = static_cast<float>(inside * kQuad);
#pragma unroll
    for (int j = 0; j < kOwned; j++) {
      const int column = column0 + tx + 16 * j;
      float mean, squares;
      MomentsOfLanes<1 | 2 | 16>(
          count,
          [&](auto f) {
#pragma unroll
            for (int i = i0; i < i0 + 4; i++) {
              if (row0 + ty + 16 * i < rows) f(acc[i][j]);
            }
          },
          &mean, &squares);
      if ((lane & (1 | 2 | 16)) == 0 && column < a.w.columns && piece < a.epilogue.moments.pieces) {
        a.epilogue.moments.Store(image, piece, column / kQuad, count, mean, squares);
      }
    }
  }
}

template <int kTile, class Rows>
void Start(SgemmArgs<Rows> args, int count, cudaStream_t stream) {
  args.row_tiles = DivideUp(RowsOf(args.a), kTile);
  args.column_tiles = DivideUp(args.w.columns, kTile);
  args.stages = DivideUp(DepthOf(args.a), kStageK);
  const int64_t blocks = static_cast<int64_t>(args.row_tiles) * args.column_tiles * count;
  if (blocks == 0) return;
  Launch(SgemmKernel<Rows, kTile>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
         kStages * 2 * kTile * kRowBytes, stream, args);
}

}  // namespace

int SgemmPieces(int rows) {
  return DivideUp(rows, 64) * kPiecesOf64Rows;
}

template <class Rows>
void Sgemm(const Rows& a, const PackedColumns<float>& w, int count, const Epilogue& epilogue,
           int multiprocessors, const ResultRows<float>& y, cudaStream_t stream) {
  const SgemmArgs<Rows> args{a, w, epilogue, y, 0, 0, 0};
  const int64_t large = static_cast<int64_t>(DivideUp(RowsOf(a), 128)) * DivideUp(w.columns, 128) * count;
  if (large >= multiprocessors) {
    Start<128>(args, count, stream);
  } else {
    Start<64>(args, count, stream);
  }
}

template void Sgemm(const MatrixRows<float>&, const PackedColumns<float>&, int, const Epilogue&, int,
                    const ResultRows<float>&, cudaStream_t);
template void Sgemm(const WindowRows<float>&, const PackedColumns<float>&, int, const Epilogue&, int,
                    const ResultRows<float>&, cudaStream_t);

}  // namespace tokenflow::cuda
