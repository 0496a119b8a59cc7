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
// That is the separate pass, which reads the map twice. Two parts of it can be had from the neighbours instead (norm_fusion.h
// says when):
//
//   MomentsKernel     the statistics from the moments (moments.cuh) that the producer of the map took from its registers: a
//                     block per image and group, pieces in fixed order, in double, merged as FinishKernel merges channels
//   halo_conv.cu      applies scale and shift to the patches a convolution loads, as ApplyKernel does
//
// Sums of pieces in another order: the statistics of the two ways differ by the rounding of fp32 sums of at most 512 values
// (of 128 in the moments), so both are held to double by the same bound, and neither depends on the batch.
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

DEVICE void StoreScale(const Scales& to, int64_t at, float weight, float bias, double mean, double inverse) {
  const double scale = weight * inverse;
  to.scale[at] = static_cast<float>(scale);
  to.shift[at] = static_cast<float>(bias - mean * scale);
}

struct FinishArgs {
  int64_t images;
  int pixels, channels, stride, groups, pieces;  // stride: the channels with their padding
  const float* sums;
  const float* weight;
  const float* bias;
  float epsilon;
  Scales to;
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
    StoreScale(a.to, image * a.stride + c, a.weight[c], a.bias[c], mean + centre, inverse);
  }
  if (first + width < a.channels) return;
  const int padding = a.channels + lane;  // fewer than 8
  if (padding < a.stride) {
    a.to.scale[image * a.stride + padding] = a.to.shift[image * a.stride + padding] = 0.0f;
  }
}

struct MomentsArgs {
  int pixels, channels, groups;
  Moments moments;
  const float* weight;
  const float* bias;
  float epsilon;
  Scales to;
};

// With n, m, M2 of the pieces and a centre c near all m: N = sum n, mean = c + sum n (m - c) / N, and the spread about it is
// sum M2 + sum n (m - c)^2 - (sum n (m - c))^2 / N (Chan, Golub and LeVeque's merge, about a centre).
__global__ void __launch_bounds__(kThreads) MomentsKernel(MomentsArgs a) {
  SHARED_MEMORY(shared);  // [warp][3] doubles
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int64_t image = blockIdx.x / a.groups;
  const int group = static_cast<int>(blockIdx.x % a.groups);
  const int width = a.channels / a.groups, quads = width / kQuad, stride = a.moments.quads;
  const float* from = a.moments.at + image * a.moments.pieces * 3 * stride + group * quads;
  const double centre = from[stride];  // the first piece is never empty
  double sums[3] = {0, 0, 0};          // n (m - c), n (m - c)^2, M2
  for (int i = thread; i < a.moments.pieces * quads; i += kThreads) {
    const float* at = from + static_cast<int64_t>(i / quads) * 3 * stride + i % quads;
    const double count = at[0], off = at[stride] - centre;
    sums[0] += count * off;
    sums[1] += count * off * off;
    sums[2] += at[2 * stride];
  }
#pragma unroll
  for (int s = 0; s < 3; s++) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sums[s] += __shfl_xor_sync(kFullWarp, sums[s], step);
    if (lane == 0) StoreShared<double>(shared + (warp * 3 + s) * 8, sums[s]);
  }
  __syncthreads();
#pragma unroll
  for (int s = 0; s < 3; s++) {
    sums[s] = 0;
    for (int w = 0; w < kThreads / 32; w++) sums[s] += LoadShared<double>(shared + (w * 3 + s) * 8);
  }
  const double count = static_cast<double>(a.pixels) * width;
  const double variance = fmax(0.0, (sums[2] + sums[1] - sums[0] * sums[0] / count) / count);
  const double mean = centre + sums[0] / count;
  const double inverse = 1.0 / sqrt(variance + static_cast<double>(a.epsilon));
  for (int c = group * width + thread; c < (group + 1) * width; c += kThreads) {
    StoreScale(a.to, image * a.channels + c, a.weight[c], a.bias[c], mean, inverse);
  }
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
  for (int e = 0; e < 8; e++) v[e] = Normalised(v[e], scale[e], shift[e], a.swish);
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
  Scales scales;

  Workspace(Arena& arena, const GroupNormShape& s)
      : sums(arena.Take<float>(s.images * Pieces(s) * 2 * Stride(s))),
        scales{arena.Take<float>(ScaleElements(s)), arena.Take<float>(ScaleElements(s))} {}
};

void RequireGroups(const GroupNormShape& s) {
  if (s.channels % s.groups == 0 && s.channels <= kMaxNormChannels) return;
  throw InvalidArgument("Expected channels that are a multiple of the groups, at most 2048, but received " +
                        std::to_string(s.channels) + " in " + std::to_string(s.groups) + " groups");
}

}  // namespace

int64_t ScaleElements(const GroupNormShape& shape) {
  return shape.images * Stride(shape);
}

size_t GroupNormWorkspaceBytes(const GroupNormShape& shape) {
  Arena arena(nullptr);
  Workspace counted(arena, shape);
  return arena.used();
}

template <class In>
void GroupNormScales(const GroupNormShape& s, const In* x, const float* weight, const float* bias,
                     float epsilon, const Scales& scales, void* workspace, cudaStream_t stream) {
  if (s.images == 0 || s.pixels == 0) return;
  RequireGroups(s);
  Arena arena(workspace);
  const Workspace space(arena, s);
  const int pieces = Pieces(s), stride = Stride(s);
  Launch(StatisticsKernel<In>, dim3(static_cast<unsigned>(s.images * pieces)), dim3(kThreads),
         kThreads * 16 * sizeof(float), stream, x, StatisticsArgs{s.pixels, stride, pieces, space.sums});
  Launch(FinishKernel<In>, dim3(static_cast<unsigned>(DivideUp<int64_t>(s.images * s.groups, kThreads / 32))),
         dim3(kThreads), 0, stream, x,
         FinishArgs{s.images, s.pixels, s.channels, stride, s.groups, pieces, space.sums, weight, bias,
                    epsilon, scales});
}

void GroupNormScales(const GroupNormShape& s, const Moments& moments, const float* weight, const float* bias,
                     float epsilon, const Scales& scales, cudaStream_t stream) {
  if (s.images == 0 || s.pixels == 0) return;
  RequireGroups(s);
  if (s.channels / s.groups % kQuad != 0 || s.channels % 8 != 0 || moments.quads * kQuad != s.channels) {
    throw InvalidArgument("Expected groups of whole quads of channels, but received " +
                          std::to_string(s.channels) + " channels in " + std::to_string(s.groups) +
                          " groups and " + std::to_string(moments.quads) + " quads");
  }
  Launch(MomentsKernel, dim3(static_cast<unsigned>(s.images * s.groups)), dim3(kThreads),
         kThreads / 32 * 3 * sizeof(double), stream,
         MomentsArgs{s.pixels, s.channels, s.groups, moments, weight, bias, epsilon, scales});
}

template <class In, class Out>
void ApplyGroupNorm(const GroupNormShape& s, const In* x, const Scales& scales, bool swish, Out* y,
                    cudaStream_t stream) {
  const int stride = Stride(s);
  const int64_t octets = s.images * s.pixels * (stride / 8);
  if (octets == 0) return;
  Launch(ApplyKernel<In, Out>, dim3(static_cast<unsigned>(DivideUp<int64_t>(octets, kThreads))),
         dim3(kThreads), 0, stream, x, ApplyArgs{octets, s.pixels, stride, scales.scale, scales.shift, swish},
         y);
}

template <class In, class Out>
void GroupNorm(const GroupNormShape& s, const In* x, const float* weight, const float* bias, float epsilon,
               bool swish, Out* y, void* workspace, cudaStream_t stream) {
  Arena arena(workspace);
  const Workspace space(arena, s);
  GroupNormScales(s, x, weight, bias, epsilon, space.scales, workspace, stream);
  ApplyGroupNorm(s, x, space.scales, swish, y, stream);
}

template void GroupNormScales(const GroupNormShape&, const float*, const float*, const float*, float,
                              const Scales&, void*, cudaStream_t);
template void GroupNormScales(const GroupNormShape&, const uint16_t*, const float*, const float*, float,
                              const Scales&, void*, cudaStream_t);
template void ApplyGroupNorm(const GroupNormShape&, const float*, const Scales&, bool, float*, cudaStream_t);
template void ApplyGroupNorm(const GroupNormShape&, const float*, const Scales&, bool, uint16_t*,
                             cudaStream_t);
template void ApplyGroupNorm(const GroupNormShape&, const uint16_t*, const Scales&, bool, float*,
                             cudaStream_t);
template void ApplyGroupNorm(const GroupNormShape&, const uint16_t*, const Scales&, bool, uint16_t*,
                             cudaStream_t);
template void GroupNorm(const GroupNormShape&, const float*, const float*, const float*, float, bool, float*,
                        void*, cudaStream_t);
template void GroupNorm(const GroupNormShape&, const float*, const float*, const float*, float, bool,
                        uint16_t*, void*, cudaStream_t);
template void GroupNorm(const GroupNormShape&, const uint16_t*, const float*, const float*, float, bool,
                        uint16_t*, void*, cudaStream_t);
template void GroupNorm(const GroupNormShape&, const uint16_t*, const float*, const float*, float, bool,
                        float*, void*, cudaStream_t);

}  // namespace tokenflow::cuda
