// Attention in the manner of FlashAttention: bf16 in and out, fp32 softmax, no matrix of scores in memory.
//
// Block: 64 queries of one (image, head), 4 warps of 16 rows. Keys and values pass by in tiles of 64 through a ring of two,
// one barrier per tile. A warp keeps its 16 query rows as A fragments in registers; S = Q K^T gives accumulators whose layout
// is that of an A fragment, so P = exp2(S - max) is packed in place and multiplied with V, which ldmatrix turns on the way.
// Running maximum and sum per row (base 2, the scale folded in); the sums of a row over its four lanes meet at the end.
//
// Shared memory: rows of width padded to 16, plus one chunk when that makes an even number of 16-byte chunks: with an odd
// pitch the eight rows of an ldmatrix phase fall into different banks at every width. q, k and v are read where the packed
// linear layer left them; nothing is transposed in memory. Widths between the instantiated ones are padded with zeros.
#include "attention.cuh"
#include "bf16.cuh"
#include "cp_async.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = 64;  // queries of a block, keys of a tile

template <int kWidth>
struct Shape {
  static_assert(kWidth % 16 == 0, "whole k steps");
  static constexpr int kChunks = kWidth / 8;
  static constexpr int kPitch = (kChunks | 1) * 16;  // bytes
  static constexpr int kTileBytes = kTileRows * kPitch;
  static constexpr int kSharedBytes = 4 * kTileBytes;
};

struct AttentionArgs {
  const uint16_t* qkv;
  int tokens, heads, width;
  float scale_log2;  // scale / ln 2
  uint16_t* y;
};

// Rows [row0, row0 + 64) of one operand of one head; zeros beyond the tokens and beyond the width.
template <int kWidth>
DEVICE void LoadTile(const AttentionArgs& a, unsigned char* target, const uint16_t* from, int row0) {
  using S = Shape<kWidth>;
  const int64_t stride = static_cast<int64_t>(3) * a.heads * a.width;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * S::kChunks; i += kThreads) {
    const int row = i / S::kChunks, chunk = i % S::kChunks;
    const bool inside = row0 + row < a.tokens && chunk * 8 < a.width;
    CopyAsync16(target + row * S::kPitch + chunk * 16,
                inside ? from + (row0 + row) * stride + chunk * 8 : from, inside ? 16 : 0);
  }
}

// Blocks a multiprocessor: as many as shared memory allows, or registers without spills.
template <int kWidth>
constexpr int kBlocks = kWidth <= 32   ? 4
                        : kWidth <= 96 ? 3
                                       : 2;

template <int kWidth>
__global__ void __launch_bounds__(kThreads, kBlocks<kWidth>) AttentionKernel(AttentionArgs a) {
  SHARED_MEMORY(shared);
  using S = Shape<kWidth>;
  constexpr int kSteps = kWidth / 16, kOutTiles = kWidth / 8;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int g = lane >> 2, t = lane & 3;
  const int query_tiles = DivideUp(a.tokens, kTileRows);
  const int query0 = static_cast<int>(blockIdx.x % query_tiles) * kTileRows;
  const int64_t image_head = blockIdx.x / query_tiles;
  const int head = static_cast<int>(image_head % a.heads);
  const int64_t image = image_head / a.heads;
  const int channels = a.heads * a.width;
  const uint16_t* q = a.qkv + image * a.tokens * 3 * channels + head * a.width;
  const uint16_t* k = q + channels;
  const uint16_t* v = k + channels;

  // Four buffers: keys and values of even tiles, then of odd ones. The queries wait in the odd keys' place.
  const auto keys = [&](int tile) { return shared + (tile & 1) * 2 * S::kTileBytes; };
  const auto values = [&](int tile) { return keys(tile) + S::kTileBytes; };
  LoadTile<kWidth>(a, keys(1), q, query0);
  CommitAsync();
  LoadTile<kWidth>(a, keys(0), k, 0);
  LoadTile<kWidth>(a, values(0), v, 0);
  CommitAsync();
  WaitAsync<1>();
  __syncthreads();
  uint32_t query[kSteps][4];
#pragma unroll
  for (int s = 0; s < kSteps; s++) {
    LoadMatrix4(query[s], keys(1) + (warp * 16 + (lane & 15)) * S::kPitch + (2 * s + (lane >> 4)) * 16);
  }

  float out[kOutTiles][4], most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
#pragma unroll
  for (int n = 0; n < kOutTiles; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) out[n][e] = 0.0f;
  }
  const int tiles = DivideUp(a.tokens, kTileRows);
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    WaitAsync<0>();
    __syncthreads();  // this tile is complete for everyone, and everyone has left the other buffers
    if (tile + 1 < tiles) {
      LoadTile<kWidth>(a, keys(tile + 1), k, (tile + 1) * kTileRows);
      LoadTile<kWidth>(a, values(tile + 1), v, (tile + 1) * kTileRows);
    }
    CommitAsync();

    float s[8][4];
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) s[n][e] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
#pragma unroll
      for (int pair = 0; pair < 4; pair++) {
        uint32_t key[4];
        LoadMatrix4(key, keys(tile) + (pair * 16 + (lane & 7) + (lane >> 4) * 8) * S::kPitch +
                             (2 * step + ((lane >> 3) & 1)) * 16);
        MmaBf16(s[2 * pair], query[step], key);
        MmaBf16(s[2 * pair + 1], query[step], key + 2);
      }
    }
    const int left = a.tokens - tile * kTileRows;
    if (left < kTileRows) {
#pragma unroll
      for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          if (n * 8 + 2 * t + (e & 1) >= left) s[n][e] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {  // rows g and g + 8
      float now = most[r];
#pragma unroll
      for (int n = 0; n < 8; n++) now = fmaxf(now, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
      now = fmaxf(now, __shfl_xor_sync(kFullWarp, now, 1));
      now = fmaxf(now, __shfl_xor_sync(kFullWarp, now, 2));
      const float shrink = FastExp2((most[r] - now) * a.scale_log2);
      const float offset = now * a.scale_log2;
      most[r] = now;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          s[n][2 * r + e] = FastExp2(fmaf(s[n][2 * r + e], a.scale_log2, -offset));
          sum += s[n][2 * r + e];
        }
      }
      total[r] = fmaf(total[r], shrink, sum);
#pragma unroll
      for (int n = 0; n < kOutTiles; n++) {
        out[n][2 * r] *= shrink;
        out[n][2 * r + 1] *= shrink;
      }
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
      const uint32_t p[4] = {
          PackBf16(s[2 * step][0], s[2 * step][1]), PackBf16(s[2 * step][2], s[2 * step][3]),
          PackBf16(s[2 * step + 1][0], s[2 * step + 1][1]), PackBf16(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
      for (int n = 0; n < kOutTiles; n += 2) {
        uint32_t value[4];
        LoadMatrix4Transposed(value,
                              values(tile) + (step * 16 + (lane & 15)) * S::kPitch + (n + (lane >> 4)) * 16);
        MmaBf16(out[n], p, value);
        MmaBf16(out[n + 1], p, value + 2);
      }
    }
  }
  WaitAsync<0>();

#pragma unroll
  for (int r = 0; r < 2; r++) {
    float sum = total[r];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    const float inverse = __fdiv_rn(1.0f, sum);
    const int row = query0 + warp * 16 + g + 8 * r;
    if (row >= a.tokens) continue;
    uint16_t* y = a.y + (image * a.tokens + row) * channels + head * a.width;
#pragma unroll
    for (int n = 0; n < kOutTiles; n++) {
      if (n * 8 >= a.width) break;
      *reinterpret_cast<uint32_t*>(y + n * 8 + 2 * t) =
          PackBf16(out[n][2 * r] * inverse, out[n][2 * r + 1] * inverse);
    }
  }
}

template <int kWidth>
void Start(const AttentionArgs& args, int64_t images, cudaStream_t stream) {
  const int64_t blocks = images * args.heads * DivideUp(args.tokens, kTileRows);
  Launch(AttentionKernel<kWidth>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
         Shape<kWidth>::kSharedBytes, stream, args);
}

}  // namespace

void Attention(const uint16_t* qkv, int64_t images, int tokens, int heads, int width, float scale,
               uint16_t* y, cudaStream_t stream) {
  if (images == 0 || tokens == 0) return;
  if (width % 8 != 0 || width < 8 || width > kMaxHeadWidth) {
    throw InvalidArgument("Expected heads of a width that is a multiple of 8, at most 128, but received " +
                          std::to_string(width));
  }
  const AttentionArgs args{qkv, tokens, heads, width, scale * 1.44269504f, y};
  if (width <= 32) {
    Start<32>(args, images, stream);
  } else if (width <= 64) {
    Start<64>(args, images, stream);
  } else if (width <= 80) {
    Start<80>(args, images, stream);
  } else if (width <= 96) {
    Start<96>(args, images, stream);
  } else {
    Start<128>(args, images, stream);
  }
}

}  // namespace tokenflow::cuda
