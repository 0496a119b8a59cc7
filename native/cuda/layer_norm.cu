// Layer normalisation: one warp per row, three passes over it: the mean, the spread about the mean (no cancellation), the
// result. Only the first pass meets memory, a row of at most some KB stays in the cache; so no register array bounds the
// number of channels. 8 neighbouring channels a lane, 16- or 32-byte accesses, reductions by shuffles of fixed shape.
#include "layer_norm.cuh"
#include "row8.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 128;

DEVICE float WarpSum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kFullWarp, v, step);
  return v;
}

struct LayerNormArgs {
  int64_t rows;
  int channels;
  const float* weight;
  const float* bias;
  float epsilon;
};

template <class In, class Out>
__global__ void __launch_bounds__(kThreads) LayerNormKernel(const In* x, LayerNormArgs a, Out* y) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + (threadIdx.x >> 5);
  if (row >= a.rows) return;  // whole warps leave
  const int stride = DivideUp(a.channels, 8) * 8;
  const In* from = x + row * stride;
  Out* to = y + row * stride;
  const float inverse_count = __fdiv_rn(1.0f, static_cast<float>(a.channels));

  float sum = 0.0f;
  for (int c = lane * 8; c < a.channels; c += 256) {
    float v[8];
    LoadRow8(from + c, v);
#pragma unroll
    for (int e = 0; e < 8; e++) sum += v[e];
  }
  const float mean = WarpSum(sum) * inverse_count;
  float spread = 0.0f;
  for (int c = lane * 8; c < a.channels; c += 256) {
    float v[8];
    LoadRow8(from + c, v);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const float d = c + e < a.channels ? v[e] - mean : 0.0f;  // what pads a row is not part of it
      spread = fmaf(d, d, spread);
    }
  }
  const float inverse = __fdiv_rn(1.0f, __fsqrt_rn(fmaf(WarpSum(spread), inverse_count, a.epsilon)));
  for (int c = lane * 8; c < a.channels; c += 256) {
    float v[8], weight[8], bias[8];
    LoadRow8(from + c, v);
    LoadRow8(a.weight + c, weight);
    LoadRow8(a.bias + c, bias);
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = fmaf((v[e] - mean) * inverse, weight[e], bias[e]);
    StoreRow8(to + c, v);
  }
}

}  // namespace

template <class In, class Out>
void LayerNorm(const In* x, int64_t rows, int channels, const float* weight, const float* bias, float epsilon,
               Out* y, cudaStream_t stream) {
  if (rows == 0) return;
  Launch(LayerNormKernel<In, Out>, dim3(static_cast<unsigned>(DivideUp<int64_t>(rows, kThreads / 32))),
         dim3(kThreads), 0, stream, x, LayerNormArgs{rows, channels, weight, bias, epsilon}, y);
}

template void LayerNorm(const float*, int64_t, int, const float*, const float*, float, float*, cudaStream_t);
template void LayerNorm(const float*, int64_t, int, const float*, const float*, float, uint16_t*,
                        cudaStream_t);
template void LayerNorm(const uint16_t*, int64_t, int, const float*, const float*, float, uint16_t*,
                        cudaStream_t);

}  // namespace tokenflow::cuda
