// y = conv3x3(swish(x scale + shift)) + bias ..., stride 1, one pixel of zeros around the normalised map: the convolutions of
// a residual block, with the group norm before them applied to what they load. The normalised map is never in memory.
//
// Block: 8 x 16 pixels of one image by 128 columns (8 warps) or 64 (4 warps); a warp owns 64 pixels, four rows of 16, by 32
// columns (tensor_tile.cuh). k runs over chunks of 32 channels, in each over the nine taps. Of a chunk the (8 + 2) x (16 + 2)
// pixels the taps can see are loaded once, normalised once, in place, by the threads that copied them, and read nine times,
// through the row addresses ldmatrix takes: a tap is an offset. In an implicit GEMM (gemm.cu) every element comes nine times
// from memory, so the sigmoid would be computed nine times over.
//
//   shared: [2 patches][180 pixels][64 bytes] [4 stages][columns][64 bytes]
//
// A ring of four stages holds the weights of one tap each, filled three taps ahead, one barrier a tap. The patch of the next
// chunk is asked for at tap 0, has arrived for its thread at tap 3 (a thread sees its own copies without a barrier) and is
// normalised a piece a tap from there on, beside the multiplications of the current one. Padding is zero after the
// activation, so pixels outside the image are never transformed.
//
// Chunk c of the pixel in column p of the patch lies at c ^ (p / 2 % 4): the eight pixels of an ldmatrix phase start at any
// column and still meet eight different banks, and since rows are 18 pixels, an even number, the rows of the patch agree.
//
// Sums run over chunks, then taps, then channels, at any tile: the same bits in any batch. They are not the bits of gemm.cu,
// which has the taps outermost.
#include "activation.cuh"
#include "cp_async.cuh"
#include "halo_conv.cuh"
#include "row8.cuh"
#include "tensor_tile.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kTileHeight = 8, kTileWidth = 16;
constexpr int kPatchWidth = kTileWidth + 2, kPatchPixels = (kTileHeight + 2) * kPatchWidth;
constexpr int kPatchRowBytes = kPatchWidth * kRowBytes, kPatchBytes = kPatchPixels * kRowBytes;
constexpr int kTaps = 9;
constexpr int kStages = 4;
constexpr int kWarpPixels = 64, kWarpColumns = 32;
constexpr int kStrips = kTileHeight * kTileWidth / 32;  // of a tile, two rows each: the pieces of the moments
constexpr int kArrival = kStages - 1;  // the tap at which a patch asked for at tap 0 is there

template <class Out>
struct HaloArgs {
  NormedMap map;
  PackedColumns<uint16_t> w;
  Epilogue epilogue;
  ResultRows<Out> y;
  int tiles_down, tiles_across, column_tiles;
  int chunks;
};

DEVICE int PatchOffset(int pixel, int column, int chunk) {
  return pixel * kRowBytes + ((chunk ^ ((column >> 1) & 3)) << 4);
}

template <class Out, int kColumns>
__global__ void __launch_bounds__(kColumns * 2, kColumns == 128 ? 2 : 3) HaloKernel(HaloArgs<Out> a) {
  SHARED_MEMORY(shared);
  constexpr int kThreads = kColumns * 2;
  constexpr int kPixelStep = kThreads / kRowChunks;  // pixels or columns between two chunks of a thread
  constexpr int kOwned = (kPatchPixels + kPixelStep - 1) / kPixelStep;
  static_assert(kArrival + kOwned <= kTaps, "one piece is normalised a tap");
  constexpr int kStageBytes = kColumns * kRowBytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int warp_y = warp % 2 * (kWarpPixels / kTileWidth), warp_column = warp / 2 * kWarpColumns;

  int block = static_cast<int>(blockIdx.x);
  const int column0 = block % a.column_tiles * kColumns;
  block /= a.column_tiles;
  const int tile_index = block % (a.tiles_down * a.tiles_across);
  const int image = block / (a.tiles_down * a.tiles_across);
  const int x0 = tile_index % a.tiles_across * kTileWidth, y0 = tile_index / a.tiles_across * kTileHeight;

  const int pixel = thread / kRowChunks, chunk = thread % kRowChunks, channels = a.map.channels;
  const uint16_t* map = a.map.x + static_cast<int64_t>(image) * a.map.height * a.map.width * channels;
  unsigned char* const ring = shared + 2 * kPatchBytes;
  // The i-th chunk of a patch that the thread has, worked out whenever it is touched: once in nine taps, for few registers.
  struct Piece {
    unsigned char* place;
    int from;  // the pixel of the map; -1: outside the image, -2: outside the patch
  };
  const auto piece = [&](int c, int i) -> Piece {
    const int p = pixel + i * kPixelStep, down = p / kPatchWidth, across = p - down * kPatchWidth;
    const int y = y0 - 1 + down, x = x0 - 1 + across;
    const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(a.map.height) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(a.map.width);
    return {shared + (c & 1) * kPatchBytes + PatchOffset(p, across, chunk), p >= kPatchPixels ? -2
                                                                            : inside ? y * a.map.width + x
                                                                                     : -1};
  };
  const auto load_patch = [&](int c) {
    const int channel = c * kStageK + chunk * 8;
#pragma unroll 1
    for (int i = 0; i < kOwned; i++) {
      const Piece to = piece(c, i);
      if (to.from == -2) break;
      const bool there = to.from >= 0 && channel < channels;
      CopyAsync16(to.place, there ? map + static_cast<int64_t>(to.from) * channels + channel : map,
                  there ? 16 : 0);
    }
  };
  const auto normalise = [&](int c, int i) {
    const int channel = c * kStageK + chunk * 8;
    const Piece to = piece(c, i);
    if (to.from < 0 || channel >= channels) return;
    const int64_t at = static_cast<int64_t>(image) * channels + channel;
    const uint4 in = LoadShared<uint4>(to.place);
    const auto half = [&](int e, uint32_t low, uint32_t high) {  // four channels at a time, for few registers
      const uint4 scale = Load16(a.map.scales.scale + at + e);
      const uint4 shift = Load16(a.map.scales.shift + at + e);
      const auto one = [&](float v, uint32_t s, uint32_t t) {
        return Normalised(v, BitsToFloat(s), BitsToFloat(t), a.map.swish);
      };
      return make_uint2(
          PackBf16(one(LowFloat(low), scale.x, shift.x), one(HighFloat(low), scale.y, shift.y)),
          PackBf16(one(LowFloat(high), scale.z, shift.z), one(HighFloat(high), scale.w, shift.w)));
    };
    const uint2 first = half(0, in.x, in.y), second = half(4, in.z, in.w);
    StoreShared<uint4>(to.place, make_uint4(first.x, first.y, second.x, second.y));
  };
  int load_tap = 0, load_chunk = 0;
  const auto load_weights = [&](int stage) {
    if (load_chunk >= a.chunks) return;
    const int channel = load_chunk * kStageK + chunk * 8;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = pixel + i * kPixelStep;
      const bool there = column0 + row < a.w.columns && channel < channels;
      CopyAsync16(ring + stage * kStageBytes + OffsetB(row, chunk),
                  there ? a.w.w + (column0 + row) * a.w.row_stride + load_tap * channels + channel : a.w.w,
                  there ? 16 : 0);
    }
    if (++load_tap == kTaps) load_tap = 0, load_chunk++;
  };

  load_patch(0);
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    load_weights(s);
    CommitAsync();
  }
  WaitAsync<kStages - 2>();
#pragma unroll 1
  for (int i = 0; i < kOwned; i++) normalise(0, i);

  TensorTile<kWarpPixels, kWarpColumns> tile;
  tile.Clear();
  int stage = 0;
#pragma unroll 1
  for (int c = 0; c < a.chunks; c++) {
    const unsigned char* patch = shared + (c & 1) * kPatchBytes;
    const bool more = c + 1 < a.chunks;
#pragma unroll 1
    for (int tap = 0; tap < kTaps; tap++) {
      WaitAsync<kStages - 2>();
      __syncthreads();  // the tap's weights are complete, at tap 0 the patch too, and everyone has left what is to be filled
      load_weights((stage + kStages - 1) & (kStages - 1));
      if (tap == 0 && more) load_patch(c + 1);
      CommitAsync();
      if (more && tap >= kArrival && tap < kArrival + kOwned) normalise(c + 1, tap - kArrival);
      const int ky = tap / 3, column = tap % 3 + (lane & 15);
      const int offset = PatchOffset((warp_y + ky) * kPatchWidth + column, column, lane >> 4);
      tile.template MultiplyAt<kPatchRowBytes>(patch, offset, ring + stage * kStageBytes, warp_column, lane);
      stage = (stage + 1) & (kStages - 1);
    }
  }
  WaitAsync<0>();

  const int g = lane >> 2, t = lane & 3;
  const int column = column0 + warp_column + 8 * t;
  const bool column_inside = column < a.w.columns;
  const auto inside = [&](int i, int h) {
    return y0 + warp_y + i < a.map.height && x0 + g + 8 * h < a.map.width;
  };
  Out* y = a.y.y + a.y.batch.At(image);
  const Out* residual = static_cast<const Out*>(a.epilogue.residual);
  if (residual != nullptr) residual += a.y.batch.At(image);
  float bias[8];
#pragma unroll
  for (int e = 0; e < 8; e++) {
    bias[e] = a.epilogue.bias != nullptr && column + e < a.w.columns ? a.epilogue.bias[column + e] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < kWarpPixels / 16; i++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (!inside(i, h) || !column_inside) continue;
      float v[8];
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] = Activate(a.epilogue.activation, tile.at(i, h, 0, e) + bias[e]);
      const int64_t r = static_cast<int64_t>(y0 + warp_y + i) * a.map.width + x0 + g + 8 * h;
      const int64_t at = r * a.y.row_stride + column;
      FinishRow8(y + at, residual == nullptr ? nullptr : residual + at, a.w.columns - column,
                 a.y.row_stride % 8 == 0, v);
#pragma unroll
      for (int e = 0; e < 8; e++) tile.at(i, h, 0, e) = v[e];
    }
  }
  if (a.epilogue.moments.at == nullptr) return;
#pragma unroll
  for (int strip = 0; strip < kWarpPixels / 32; strip++) {
    const int down = max(0, min(2, a.map.height - (y0 + warp_y + 2 * strip)));
    const int across = min(kTileWidth, a.map.width - x0);
    StoreStripMoments(tile, strip, 0, lane, down * across, inside, a.epilogue.moments, image,
                      tile_index * kStrips + warp_y / 2 + strip, column, column_inside);
  }
}

template <int kColumns, class Out>
void Start(HaloArgs<Out> args, int images, cudaStream_t stream) {
  args.column_tiles = DivideUp(args.w.columns, kColumns);
  const int64_t blocks =
      static_cast<int64_t>(args.tiles_down) * args.tiles_across * args.column_tiles * images;
  if (blocks == 0) return;
  Launch(HaloKernel<Out, kColumns>, dim3(static_cast<unsigned>(blocks)), dim3(kColumns * 2),
         2 * kPatchBytes + kStages * kColumns * kRowBytes, stream, args);
}

int Tiles(int height, int width) {
  return DivideUp(height, kTileHeight) * DivideUp(width, kTileWidth);
}

}  // namespace

HaloTile ChooseHaloTile(int height, int width, int columns, int images, int multiprocessors) {
  const int64_t large = static_cast<int64_t>(Tiles(height, width)) * DivideUp(columns, 128) * images;
  return columns > 64 && large >= multiprocessors ? HaloTile::k128Columns : HaloTile::k64Columns;
}

bool HaloFits(int height, int width) {
  const int64_t gemm = DivideUp<int64_t>(static_cast<int64_t>(height) * width, 64) * 64;
  return static_cast<int64_t>(Tiles(height, width)) * kTileHeight * kTileWidth * 4 <= gemm * 5;
}

int HaloPieces(int height, int width) {
  return Tiles(height, width) * kStrips;
}

template <class Out>
void HaloConv(const NormedMap& map, const PackedColumns<uint16_t>& w, int images, const Epilogue& epilogue,
              HaloTile tile, const ResultRows<Out>& y, cudaStream_t stream) {
  const HaloArgs<Out> args{map,
                           w,
                           epilogue,
                           y,
                           DivideUp(map.height, kTileHeight),
                           DivideUp(map.width, kTileWidth),
                           0,
                           DivideUp(map.channels, kStageK)};
  if (tile == HaloTile::k128Columns) {
    Start<128>(args, images, stream);
  } else {
    Start<64>(args, images, stream);
  }
}

template void HaloConv(const NormedMap&, const PackedColumns<uint16_t>&, int, const Epilogue&, HaloTile,
                       const ResultRows<uint16_t>&, cudaStream_t);
template void HaloConv(const NormedMap&, const PackedColumns<uint16_t>&, int, const Epilogue&, HaloTile,
                       const ResultRows<float>&, cudaStream_t);

}  // namespace tokenflow::cuda
