// The coarse lookup on tensor cores: scores in bf16 with fp32 accumulators that start at the exact norms, and of the scores
// only the minimum of each group of 64 codes. Nothing is decided here: settle.cu scores again, exactly, every group that
// the margin of prepare.cu cannot exclude, so the answer is that of the exact kernel, bit for bit.
//
// Block: 128 queries x 128 codes at a time, 8 warps as 4 x 2, a warp 32 queries x 64 codes = one group per row. While d is
// at most 128 the queries stay in shared memory (at most 32 KB) and only codes pass through the ring, 8 KB per 32 k; this
// halves what L2 has to deliver, which on a fast card is the limit. Above, the queries pass through the ring too, which
// takes more registers than two blocks a multiprocessor leave; one block there.
//
// The epilogue is one fminf per score, then 3 shuffles that reduce 4 rows over the 4 lanes that share them, after which each
// lane stores one value. Columns are permuted (tensor_tile.cuh), which a minimum does not notice; the norms follow the
// same order, 8 neighbouring floats a thread. A NaN (inf - inf beyond bf16) drops out of the minimum; the query's margin
// is infinite then.
#include "cp_async.cuh"
#include "screen.cuh"
#include "tensor_tile.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTileQueries = 128;
constexpr int kStages = 3;
constexpr int kMatrixBytes = 128 * kRowBytes;
constexpr int kNormBytes = kTileCodes * 4;
constexpr int kMaxResidentK = 128;

struct ScreenArgs {
  QueryView queries;
  CodebookView book;
  int query_tiles;
  int tiles_per_split;
  float* minima;
};

// Shared memory: [queries, all of k][ring of codes and norms] or [ring of queries, codes and norms].
template <bool kResident>
struct Shape {
  static constexpr int kStageBytes = (kResident ? 1 : 2) * kMatrixBytes + kNormBytes;
  static int SharedBytes(int dim) {
    return (kResident ? DivideUp(dim, kStageK) * kMatrixBytes : 0) + kStages * kStageBytes;
  }
};

// Copies this thread's two chunks of 128 rows x 32 k at k: chunk t % 4 of rows t / 4 and t / 4 + 64, which have the same
// swizzle. `row` is the first of them; rows from row_end on, and k from stride on, become zeros.
DEVICE void CopyRows(unsigned char* target, const uint16_t* row, int stride, int row_end, int k) {
  const int first = static_cast<int>(threadIdx.x) >> 2;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const bool inside = first + 64 * i < row_end && k < stride;
    CopyAsync16(target + 64 * i * kRowBytes, inside ? row + 64 * i * stride + k : row, inside ? 16 : 0);
  }
}

// The ring's producer: walks the tiles of the split, and inside a tile the stages of k.
template <bool kResident>
class Loader {
 public:
  DEVICE Loader(const ScreenArgs& a, int64_t query0, int first_tile) : tile_(first_tile) {
    const int row = static_cast<int>(threadIdx.x) >> 2;
    code_ = a.book.codes_low + (static_cast<int64_t>(first_tile) * kTileCodes + row) * a.book.stride_low;
    query_row_ = a.queries.y_low + (query0 + row) * a.book.stride_low;
    query_end_ = static_cast<int>(min(a.queries.count - query0, static_cast<int64_t>(kTileQueries)));
    if (row >= query_end_) query_row_ = a.queries.y_low;  // never read, but a valid address
  }

  DEVICE void CopyQueries(const ScreenArgs& a, unsigned char* target, int k0) const {
    const int row = static_cast<int>(threadIdx.x) >> 2, chunk = static_cast<int>(threadIdx.x) & 3;
    CopyRows(target + OffsetA(row, chunk), query_row_, a.book.stride_low, query_end_, k0 + chunk * 8);
  }

  DEVICE void Issue(const ScreenArgs& a, unsigned char* stage) {
    constexpr int kCodesAt = kResident ? 0 : kMatrixBytes;
    const int thread = static_cast<int>(threadIdx.x), row = thread >> 2, chunk = thread & 3;
    if (!kResident) CopyQueries(a, stage, k_);
    CopyRows(stage + kCodesAt + OffsetB(row, chunk), code_, a.book.stride_low, kTileCodes, k_ + chunk * 8);
    if (k_ == 0 && thread < kTileCodes / 4) {
      CopyAsync16(stage + kCodesAt + kMatrixBytes + thread * 16,
                  a.book.norms + static_cast<int64_t>(tile_) * kTileCodes + thread * 4, 16);
    }
    k_ += kStageK;
    if (k_ >= a.book.dim) {
      k_ = 0;
      tile_++;
      code_ += static_cast<int64_t>(kTileCodes) * a.book.stride_low;
    }
  }

  DEVICE int tile() const { return tile_; }

 private:
  const uint16_t* code_;
  const uint16_t* query_row_;
  int query_end_;
  int tile_;
  int k_ = 0;
};

template <bool kResident>
__global__ void __launch_bounds__(kThreads, kResident ? 2 : 1) ScreenKernel(ScreenArgs a) {
  SHARED_MEMORY(shared);
  constexpr int kStageBytes = Shape<kResident>::kStageBytes;
  constexpr int kCodesAt = kResident ? 0 : kMatrixBytes;  // in a stage
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int row0 = (warp & 3) * 32, column0 = (warp >> 2) * 64;
  const int64_t query0 = static_cast<int64_t>(blockIdx.x % a.query_tiles) * kTileQueries;
  const int first_tile = static_cast<int>(blockIdx.x / a.query_tiles) * a.tiles_per_split;
  const int last_tile = min(first_tile + a.tiles_per_split, static_cast<int>(a.book.padded / kTileCodes));
  const int stages_per_tile = (a.book.dim + kStageK - 1) / kStageK;
  unsigned char* ring = shared + (kResident ? stages_per_tile * kMatrixBytes : 0);

  Loader<kResident> loader(a, query0, first_tile);
  if (kResident) {  // belongs to the first group, so the first wait covers it
    for (int s = 0; s < stages_per_tile; s++) loader.CopyQueries(a, shared + s * kMatrixBytes, s * kStageK);
  }
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    if (loader.tile() < last_tile) loader.Issue(a, ring + s * kStageBytes);
    CommitAsync();
  }

  TensorTile<32, 64> tile;
  const int g = lane >> 2, t = lane & 3;
  // Where this lane stores a minimum per tile, once the rows are reduced over the four lanes that share them.
  const int out_row = row0 + 16 * (t >> 1) + g + 8 * (t & 1);
  float* out = a.minima + (query0 + out_row) * (a.book.padded / kGroupCodes) +
               static_cast<int64_t>(first_tile) * (kTileCodes / kGroupCodes) + (warp >> 2);
  if (query0 + out_row >= a.queries.count) out = nullptr;
  int code_tile = first_tile, k = 0, stage = 0;
#pragma unroll 1
  while (code_tile < last_tile) {
    WaitAsync<kStages - 2>();
    __syncthreads();  // this stage is complete for everyone, and everyone has left the one to be filled
    if (loader.tile() < last_tile)
      loader.Issue(a, ring + (stage == 0 ? kStages - 1 : stage - 1) * kStageBytes);
    CommitAsync();

    const unsigned char* base = ring + stage * kStageBytes;
    if (k == 0) {
#pragma unroll
      for (int q = 0; q < 2; q++) {
        const unsigned char* norms = base + kCodesAt + kMatrixBytes + (column0 + 32 * q + 8 * t) * 4;
        const float4 low = LoadShared<float4>(norms), high = LoadShared<float4>(norms + 16);
        const float n[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
          for (int e = 0; e < 8; e++) tile.at(i, 0, q, e) = tile.at(i, 1, q, e) = n[e];
        }
      }
    }
    const unsigned char* query_stage = kResident ? shared + k / kStageK * kMatrixBytes : base;
    tile.Multiply(query_stage, base + kCodesAt, row0, column0, lane, a.book.dim - k > 16 ? 2 : 1);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    k += kStageK;
    if (k < a.book.dim) continue;
    k = 0;

    float v[4];  // by row 2 i + h
#pragma unroll
    for (int r = 0; r < 4; r++) {
      float m = INFINITY;
#pragma unroll
      for (int q = 0; q < 2; q++) {
#pragma unroll
        for (int e = 0; e < 8; e++) m = fminf(m, tile.at(r >> 1, r & 1, q, e));
      }
      v[r] = m;
    }
#pragma unroll
    for (int level = 0; level < 2; level++) {
      const int width = 2 >> level;
      const bool upper = (t & width) != 0;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (i >= width) break;
        const float keep = upper ? v[i + width] : v[i];
        const float give = upper ? v[i] : v[i + width];
        v[i] = fminf(keep, __shfl_xor_sync(kFullWarp, give, width));
      }
    }
    if (out != nullptr) {
      *out = v[0];
      out += kTileCodes / kGroupCodes;
    }
    code_tile++;
  }
  WaitAsync<0>();
}

template <bool kResident>
void Start(ScreenArgs args, unsigned blocks, cudaStream_t stream) {
  const auto shared_bytes = static_cast<size_t>(Shape<kResident>::SharedBytes(args.book.dim));
  Launch(ScreenKernel<kResident>, dim3(blocks), dim3(kThreads), shared_bytes, stream, args);
}

}  // namespace

void ScreenMinima(const QueryView& queries, const CodebookView& book, int splits, float* minima,
                  cudaStream_t stream) {
  if (queries.count == 0) return;
  const int64_t tiles = book.padded / kTileCodes;
  ScreenArgs args{queries, book, 0, 0, minima};
  args.query_tiles = static_cast<int>(DivideUp<int64_t>(queries.count, kTileQueries));
  args.tiles_per_split = static_cast<int>(DivideUp<int64_t>(tiles, splits));
  const auto blocks =
      static_cast<unsigned>(args.query_tiles * DivideUp<int64_t>(tiles, args.tiles_per_split));
  if (book.dim <= kMaxResidentK) {
    Start<true>(args, blocks, stream);
  } else {
    Start<false>(args, blocks, stream);
  }
}

}  // namespace tokenflow::cuda
