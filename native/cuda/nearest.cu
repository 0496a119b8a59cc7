// The exact lookup on the FMA units: s_j = fma chain of y_k c_jk from n_j, k ascending (codebook/score.h), for every code,
// and of the scores only minima leave the chip.
//
// Block: 128 queries x 128 codes at a time, 256 threads as 16 x 16; thread (tx, ty) owns queries ty + 16 i and codes
// tx + 16 j, i, j < 8. The accumulators start at the norms, so norms cost nothing, and every accumulator is one chain over
// ascending k: the bits are those of a scalar loop, whatever the tile, the split or the batch.
//
// Shared memory: a ring of kStages stages of 8 k: 128 query rows and 128 code rows of 32 bytes each, swizzled (swizzle.cuh),
// and 128 norms. One thread copies 16 bytes of each matrix per stage (cp.async), one barrier per stage. The query rows come
// anew from L2 with every code tile, which costs 4 KB per 131072 FMA and keeps d unlimited.
//
// The epilogue is what a lookup at d = 8 pays for (spec of the argmin: 3 instructions a score). Tile-min: fold a row's 8
// scores by fminf, which drops NaN, then
//   keys    one compare with the running minimum per row and tile, remembering the tile alone; the first code of the tile
//           that has this score is found by the settling kernel, which scores one tile again;
//   minima  a butterfly over the 16 lanes that share a row, 15 shuffles for 16 values, after which each lane stores one.
//
// Registers: 64 accumulators, 16 code and 4 query fragments: half of a thread's codes are multiplied at a time.
#include "cp_async.cuh"
#include "nearest.cuh"
#include "score_key.cuh"
#include "swizzle.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTileQueries = 128;
constexpr int kStages = 4;
constexpr int kChunks = 2;  // of 4 floats: k of one stage = 8
constexpr int kStageK = kChunks * 4;
constexpr int kMatrixBytes = 128 * kStageK * 4;
constexpr int kNormBytes = kTileCodes * 4;
constexpr int kStageBytes = 2 * kMatrixBytes + kNormBytes;

enum class Keep { kKeys, kMinima };

struct NearestArgs {
  QueryView queries;
  CodebookView book;
  int query_tiles;
  int tiles_per_split;
  float* minima;  // [count][groups]
};

// The ring's producer: walks the tiles of the split, and inside a tile the stages of k. Thread t copies chunk t % 2 of rows
// t / 2. What can be had again from the thread's number is not kept in a register.
class Loader {
 public:
  DEVICE Loader(const NearestArgs& a, int64_t query0, int first_tile) : tile_(first_tile) {
    const int row = static_cast<int>(threadIdx.x) >> 1;
    const bool inside = query0 + row < a.queries.count;
    query_ = inside ? a.queries.y + (query0 + row) * a.book.stride : nullptr;
    code_ = a.book.codes + (static_cast<int64_t>(first_tile) * kTileCodes + row) * a.book.stride;
  }

  DEVICE void Issue(const NearestArgs& a, unsigned char* stage) {
    const int thread = static_cast<int>(threadIdx.x);
    const int k = k_ + (thread & 1) * 4;
    const bool in_row = k < a.book.stride;
    const bool has_query = in_row && query_ != nullptr;
    unsigned char* target = stage + SwizzledOffset<kChunks>(thread >> 1, thread & 1);
    CopyAsync16(target, has_query ? query_ + k : a.book.codes, has_query ? 16 : 0);
    CopyAsync16(target + kMatrixBytes, in_row ? code_ + k : a.book.codes, in_row ? 16 : 0);
    if (k_ == 0 && thread < kTileCodes / 4) {
      CopyAsync16(stage + 2 * kMatrixBytes + thread * 16,
                  a.book.norms + static_cast<int64_t>(tile_) * kTileCodes + thread * 4, 16);
    }
    k_ += kStageK;
    if (k_ >= a.book.dim) {
      k_ = 0;
      tile_++;
      code_ += static_cast<int64_t>(kTileCodes) * a.book.stride;
    }
  }

 private:
  const float* query_;  // null: no such query, its row becomes zeros
  const float* code_;
  int tile_;
  int k_ = 0;
};

// acc += one stage; `chunks` 16-byte chunks of it hold anything. Sixteen rows further the swizzle is the same, so one
// address per matrix and chunk serves all eight rows of a thread.
DEVICE void MultiplyStage(float (&acc)[8][8], const unsigned char* stage, int chunks, int tx, int ty) {
  constexpr int kSixteenRows = 16 * kStageK * 4;
#pragma unroll 1
  for (int c = 0; c < chunks; c++) {
    const unsigned char* queries = stage + SwizzledOffset<kChunks>(ty, c);
    const unsigned char* codes = stage + kMatrixBytes + SwizzledOffset<kChunks>(tx, c);
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
      float4 code[4];
#pragma unroll
      for (int j = 0; j < 4; j++) code[j] = LoadShared<float4>(codes + (half + j) * kSixteenRows);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float4 query = LoadShared<float4>(queries + i * kSixteenRows);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(query.x, code[j].x, acc[i][half + j]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(query.y, code[j].y, acc[i][half + j]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(query.z, code[j].z, acc[i][half + j]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][half + j] = fmaf(query.w, code[j].w, acc[i][half + j]);
      }
    }
  }
}

// minima of the 8 rows x 2 groups of a thread over its 16 lanes; lane tx stores row tx / 2, group tx % 2.
DEVICE void StoreMinima(const NearestArgs& a, const float (&acc)[8][8], int64_t query0, int64_t tile, int tx,
                        int ty) {
  float v[16];
#pragma unroll
  for (int i = 0; i < 8; i++) {
#pragma unroll
    for (int group = 0; group < 2; group++) {
      float m = INFINITY;
#pragma unroll
      for (int j = 0; j < 4; j++) m = fminf(m, acc[i][group * 4 + j]);
      v[i * 2 + group] = m;
    }
  }
#pragma unroll
  for (int level = 0; level < 4; level++) {
    const int width = 8 >> level;
    const bool upper = (tx & width) != 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i >= width) break;
      const float keep = upper ? v[i + width] : v[i];
      const float give = upper ? v[i] : v[i + width];
      v[i] = fminf(keep, __shfl_xor_sync(kFullWarp, give, width));
    }
  }
  const int64_t q = query0 + ty + 16 * (tx >> 1);
  if (q < a.queries.count) {
    a.minima[q * (a.book.padded / kGroupCodes) + tile * (kTileCodes / kGroupCodes) + (tx & 1)] = v[0];
  }
}

// The tile behind a thread's running minimum of row i. It changes a few times per query, so it lives in shared memory.
DEVICE unsigned char* BestTile(unsigned char* shared, int i) {
  return shared + kStages * kStageBytes + (i * kThreads + threadIdx.x) * 4;
}

// The best (score, tile) of each row over its 16 lanes, merged with the other splits'.
DEVICE void MergeKeys(const NearestArgs& a, const float (&best)[8], unsigned char* shared, int64_t query0,
                      int tx, int ty) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float score = best[i];
    int tile = LoadShared<int>(BestTile(shared, i));
#pragma unroll
    for (int width = 8; width >= 1; width /= 2) {
      const float other = __shfl_xor_sync(kFullWarp, score, width);
      const int other_tile = __shfl_xor_sync(kFullWarp, tile, width);
      if (Before(other, other_tile, score, tile)) {
        score = other;
        tile = other_tile;
      }
    }
    const int64_t q = query0 + ty + 16 * i;
    if (tx == 0 && q < a.queries.count && score < INFINITY) {
      atomicMin(reinterpret_cast<unsigned long long*>(a.queries.keys + q),
                static_cast<unsigned long long>(ScoreKey(score, static_cast<uint32_t>(tile))));
    }
  }
}

template <Keep kKeep>
__global__ void __launch_bounds__(kThreads, 2) NearestKernel(NearestArgs a) {
  SHARED_MEMORY(shared);
  static_assert((kStages & (kStages - 1)) == 0, "the ring is indexed by masking");
  const int tx = static_cast<int>(threadIdx.x) & 15, ty = static_cast<int>(threadIdx.x) >> 4;
  // Blocks in flight take different queries against the same codes, which then come from L2 once.
  const int64_t query0 = static_cast<int64_t>(blockIdx.x % a.query_tiles) * kTileQueries;
  const int first_tile = static_cast<int>(blockIdx.x / a.query_tiles) * a.tiles_per_split;
  const int last_tile = min(first_tile + a.tiles_per_split, static_cast<int>(a.book.padded / kTileCodes));
  const int steps = (last_tile - first_tile) * ((a.book.dim + kStageK - 1) / kStageK);

  Loader loader(a, query0, first_tile);
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    if (s < steps) loader.Issue(a, shared + s * kStageBytes);
    CommitAsync();
  }

  float acc[8][8];
  float best[8];
  if constexpr (kKeep == Keep::kKeys) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      best[i] = INFINITY;
      StoreShared<int>(BestTile(shared, i), 0);
    }
  }
  int tile = first_tile, k = 0;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    WaitAsync<kStages - 2>();
    __syncthreads();  // this stage is complete for everyone, and everyone has left the one to be filled
    if (step + kStages - 1 < steps)
      loader.Issue(a, shared + ((step + kStages - 1) & (kStages - 1)) * kStageBytes);
    CommitAsync();

    const unsigned char* stage = shared + (step & (kStages - 1)) * kStageBytes;
    if (k == 0) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float norm = LoadShared<float>(stage + 2 * kMatrixBytes + (tx + 16 * j) * 4);
#pragma unroll
        for (int i = 0; i < 8; i++) acc[i][j] = norm;
      }
    }
    MultiplyStage(acc, stage, min(kChunks, (a.book.dim - k + 3) / 4), tx, ty);
    k += kStageK;
    if (k < a.book.dim) continue;
    k = 0;
    if constexpr (kKeep == Keep::kMinima) {
      StoreMinima(a, acc, query0, tile, tx, ty);
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        float m = acc[i][0];
#pragma unroll
        for (int j = 1; j < 8; j++) m = fminf(m, acc[i][j]);
        if (m < best[i]) {
          best[i] = m;
          StoreShared<int>(BestTile(shared, i), tile);
        }
      }
    }
    tile++;
  }
  WaitAsync<0>();
  if constexpr (kKeep == Keep::kKeys) MergeKeys(a, best, shared, query0, tx, ty);
}

template <Keep kKeep>
void Start(const QueryView& queries, const CodebookView& book, int splits, float* minima,
           cudaStream_t stream) {
  if (queries.count == 0) return;
  const int64_t tiles = book.padded / kTileCodes;
  NearestArgs args{queries, book, 0, 0, minima};
  args.query_tiles = static_cast<int>(DivideUp<int64_t>(queries.count, kTileQueries));
  args.tiles_per_split = static_cast<int>(DivideUp<int64_t>(tiles, splits));
  const int64_t used_splits = DivideUp<int64_t>(tiles, args.tiles_per_split);  // none without a tile
  const size_t shared_bytes = kStages * kStageBytes + (kKeep == Keep::kKeys ? 8 * kThreads * sizeof(int) : 0);
  Launch(NearestKernel<kKeep>, dim3(static_cast<unsigned>(args.query_tiles * used_splits)), dim3(kThreads),
         shared_bytes, stream, args);
}

}  // namespace

void NearestKeys(const QueryView& queries, const CodebookView& book, int splits, cudaStream_t stream) {
  Start<Keep::kKeys>(queries, book, splits, nullptr, stream);
}

void NearestMinima(const QueryView& queries, const CodebookView& book, int splits, float* minima,
                   cudaStream_t stream) {
  Start<Keep::kMinima>(queries, book, splits, minima, stream);
}

}  // namespace tokenflow::cuda
