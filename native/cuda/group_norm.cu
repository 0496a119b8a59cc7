// Group normalisation over [images][pixels][channels], in three launches:
//
//   StatisticsKernel  a block per image and piece of 512 pixels: per channel the sums of d and d^2, d = x - origin, with the
//                     image's first pixel as origin, so that an offset far from zero does not cancel the squares away
//   FinishKernel      a warp per image and group: the pieces and channels of the group in fixed order, in double
//                     (variance = within the channels + between them), to a scale and a shift per channel
//   ApplyKernel       y = x scale + shift, swish if asked, 8 channels a thread
//
// Channels are padded with zeros to a multiple of 8, so that every access is 16 or 32 bytes wide; the padding stays zero.
// A thread of the statistics keeps 8 neighbouring channels and walks pixels, so loads are 16 or 32 bytes wide and a warp's are
// contiguous; the threads that share channels meet once, in shared memory, in the order of their pixels. Pieces depend on the
// shape of one image alone and nothing is atomic: the same bits in any batch, every time.
//
// This is the separate pass. Taking the statistics from the producer's registers and applying them while the next convolution
// loads its input would spare both passes over memory; that is not built.
#include "activation.cuh"
#include "arena.h"
#include "group_norm.cuh"
#include "row8.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 512;  // pixels of a block

struct StatisticsArgs {
  int pixels, channels, pieces;  // channels with their padding
  float* sums;                   // [images][pieces][2][channels]: of d, of d^2
};

template <class In>
__global__ void __launch_bounds__(kThreads) StatisticsKernel(const In* x, StatisticsArgs a) {
  SHARED_MEMORY(shared);  // [thread][16]: 8 sums, 8 sums of squares
  const int octets = a.channels / 8, lanes = kThreads / octets;
  const int thread = static_cast<int>(threadIdx.x), octet = thread % octets, lane = thread / octets;
  const int64_t image = blockIdx.x / a.pieces;
  const int piece = static_cast<int>(blockIdx.x % a.pieces);
  const In* map = x + image * a.pixels * a.channels + octet * 8;
  float origin[8], sum[8], square[8];
  LoadRow8(map, origin);
#pragma unroll
  for (int e = 0; e < 8; e++) sum[e] = square[e] = 0.0f;
  if (lane < lanes) {
    const int end = min(a.pixels, (piece + 1) * kPiece);
    for (int p = piece * kPiece + lane; p < end; p += lanes) {
      float v[8];
      LoadRow8(map + static_cast<int64_t>(p) * a.channels, v);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const float d = v[e] - origin[e];
        sum[e] += d;
        square[e] = fmaf(d, d, square[e]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < 8; e++) {
    StoreShared<float>(shared + (e * kThreads + thread) * 4, sum[e]);
    StoreShared<float>(shared + ((8 + e) * kThreads + thread) * 4, square[e]);
  }
  __syncthreads();
  for (int i = thread; i < 2 * a.channels; i += kThreads) {
    const int which = i / a.channels, channel = i % a.channels;
    float total = 0.0f;
    for (int l = 0; l < lanes; l++) {
      total +=
          LoadShared<float>(shared + ((which * 8 + channel % 8) * kThreads + l * octets + channel / 8) * 4);
    }
    a.sums[((image * a.pieces + piece) * 2 + which) * a.channels + channel] = total;
  }
}

struct FinishArgs {
  int64_t images;
  int pixels, channels, stride, groups, pieces;  // stride: the channels with their padding
  const float* sums;
  const float* weight;
  const float* bias;
  float epsilon;
  float* scale;  // [images][stride]; zeros for the padding
  float* shift;
};

template <class In>
__global__ void __launch_bounds__(kThreads) FinishKernel(const In* x, FinishArgs a) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + (threadIdx.x >> 5);
  if (task >= a.images * a.groups) return;  // whole warps leave
  const int64_t image = task / a.groups;
  const int width = a.channels / a.groups, first = static_cast<int>(task % a.groups) * width;
  const double count = a.pixels;
  // Lane l has channels first + l, first + l + 32, ...; each is summed over the pieces in order.
  double means = 0, within = 0,
         squares = 0;  // over the lane's channels: of the mean, of the spread, of the mean squared
  const double centre = LoadOne(x + image * a.pixels * a.stride + first);
  for (int c = first + lane; c < first + width; c += 32) {
    double sum = 0, square = 0;
    for (int piece = 0; piece < a.pieces; piece++) {
      const float* at = a.sums + (image * a.pieces + piece) * 2 * a.stride;
      sum += at[c];
      square += at[a.stride + c];
    }
    const double mean = LoadOne(x + image * a.pixels * a.stride + c) - centre + sum / count;
    means += mean;
    squares += mean * mean;
    within += square - sum * sum / count;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    means += __shfl_xor_sync(kFullWarp, means, step);
    squares += __shfl_xor_sync(kFullWarp, squares, step);
    within += __shfl_xor_sync(kFullWarp, within, step);
  }
  const double mean = means / width;
  const double between = squares - means * mean;
  const double variance = fmax(0.0, within / (count * width) + between / width);
  const double inverse = 1.0 / sqrt(variance + static_cast<double>(a.epsilon));
  for (int c = first + lane; c < first + width; c += 32) {
    const double scale = a.weight[c] * inverse;
    a.scale[image * a.stride + c] = static_cast<float>(scale);
    a.shift[image * a.stride + c] = static_cast<float>(a.bias[c] - (mean + centre) * scale);
  }
  if (first + width < a.channels) return;
  const int padding = a.channels + lane;  // fewer than 8
  if (padding < a.stride) a.scale[image * a.stride + padding] = a.shift[image * a.stride + padding] = 0.0f;
}

struct ApplyArgs {
  int64_t octets;        // of the whole tensor
  int pixels, channels;  // channels with their padding
  const float* scale;
  const float* shift;
  bool swish;
};

template <class In, class Out>
__global__ void __launch_bounds__(kThreads) ApplyKernel(const In* x, ApplyArgs a, Out* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.octets) return;
  const int per_pixel = a.channels / 8;
  const int64_t image = i / (static_cast<int64_t>(a.pixels) * per_pixel);
  const int64_t channel = image * a.channels + i % per_pixel * 8;
  float v[8], scale[8], shift[8];
  LoadRow8(x + i * 8, v);
  LoadRow8(a.scale + channel, scale);
  LoadRow8(a.shift + channel, shift);
#pragma unroll
  for (int e = 0; e < 8; e++) {
    v[e] = fmaf(v[e], scale[e], shift[e]);
    if (a.swish) v[e] = v[e] * Sigmoid(v[e]);
  }
  StoreRow8(y + i * 8, v);
}

int Pieces(const GroupNormShape& shape) {
  return DivideUp(shape.pixels, kPiece);
}

int Stride(const GroupNormShape& shape) {
  return DivideUp(shape.channels, 8) * 8;
}

struct Workspace {
  float* sums;
  float* scale;
  float* shift;

  Workspace(Arena& arena, const GroupNormShape& s)
      : sums(arena.Take<float>(s.images * Pieces(s) * 2 * Stride(s))),
        scale(arena.Take<float>(s.images * Stride(s))),
        shift(arena.Take<float>(s.images * Stride(s))) {}
};

}  // namespace

size_t GroupNormWorkspaceBytes(const GroupNormShape& shape) {
  Arena arena(nullptr);
  Workspace counted(arena, shape);
  return arena.used();
}

template <class In, class Out>
void GroupNorm(const GroupNormShape& s, const In* x, const float* weight, const float* bias, float epsilon,
               bool swish, Out* y, void* workspace, cudaStream_t stream) {
  if (s.images == 0 || s.pixels == 0) return;
  if (s.channels % s.groups != 0 || s.channels > kMaxNormChannels) {
    throw InvalidArgument("Expected channels that are a multiple of the groups, at most 2048, but received " +
                          std::to_string(s.channels) + " in " + std::to_string(s.groups) + " groups");
  }
  Arena arena(workspace);
  const Workspace space(arena, s);
  const int pieces = Pieces(s), stride = Stride(s);
  Launch(StatisticsKernel<In>, dim3(static_cast<unsigned>(s.images * pieces)), dim3(kThreads),
         kThreads * 16 * sizeof(float), stream, x, StatisticsArgs{s.pixels, stride, pieces, space.sums});
  Launch(FinishKernel<In>, dim3(static_cast<unsigned>(DivideUp<int64_t>(s.images * s.groups, kThreads / 32))),
         dim3(kThreads), 0, stream, x,
         FinishArgs{s.images, s.pixels, s.channels, stride, s.groups, pieces, space.sums, weight, bias,
                    epsilon, space.scale, space.shift});
  const int64_t octets = s.images * s.pixels * (stride / 8);
  Launch(ApplyKernel<In, Out>, dim3(static_cast<unsigned>(DivideUp<int64_t>(octets, kThreads))),
         dim3(kThreads), 0, stream, x, ApplyArgs{octets, s.pixels, stride, space.scale, space.shift, swish},
         y);
}

template void GroupNorm(const GroupNormShape&, const float*, const float*, const float*, float, bool, float*,
                        void*, cudaStream_t);
template void GroupNorm(const GroupNormShape&, const float*, const float*, const float*, float, bool,
                        uint16_t*, void*, cudaStream_t);
template void GroupNorm(const GroupNormShape&, const uint16_t*, const float*, const float*, float, bool,
                        uint16_t*, void*, cudaStream_t);
template void GroupNorm(const GroupNormShape&, const uint16_t*, const float*, const float*, float, bool,
                        float*, void*, cudaStream_t);

}  // namespace tokenflow::cuda
