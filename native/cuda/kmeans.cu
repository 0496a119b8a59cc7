// Passes over the rows of k-means, each in the order that codebook/kmeans_rows.cc has on the CPU:
//
//   LowerNearest     nearest_i = min(nearest_i, |x_i - c|^2): one thread per row; eight partial sums over k mod 8, products and
//                    sums rounded separately, then added in pairs. A row is read once; its neighbours are in the cache by then
//   BlockSums        the double sum of 4096 values, in order: one warp per block loads 32 neighbouring floats at a time and
//                    adds them one after the other by shuffles
//   CountDifferent   positions where two assignments differ: integers, so any order will do
//
// Nothing is in shared memory.
#include "kmeans.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>(DivideUp<int64_t>(threads, kThreads));
}

__global__ void __launch_bounds__(kThreads)
    LowerNearestKernel(const float* x, int64_t n, int dim, const float* code, bool first, float* nearest) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= n) return;
  const float* v = x + row * dim;
  constexpr int kLanes = 8;
  float lanes[kLanes] = {};
  int k = 0;
  for (; k + kLanes <= dim; k += kLanes) {
#pragma unroll
    for (int lane = 0; lane < kLanes; lane++) {
      const float difference = v[k + lane] - code[k + lane];
      lanes[lane] = __fadd_rn(lanes[lane], __fmul_rn(difference, difference));
    }
  }
  float rest = 0.0f;
  for (; k < dim; k++) {
    const float difference = v[k] - code[k];
    rest = __fadd_rn(rest, __fmul_rn(difference, difference));
  }
  const float distance =
      (((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))) +
      rest;
  if (first || distance < nearest[row]) nearest[row] = distance;
}

__global__ void __launch_bounds__(kThreads) BlockSumsKernel(const float* values, int64_t n, double* sums) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t block = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) >> 5;
  const int64_t begin = block * kSumBlock, end = min(n, begin + kSumBlock);
  if (begin >= n) return;  // whole warps leave
  double sum = 0.0;
  for (int64_t i = begin; i < end; i += 32) {
    const float mine = i + lane < end ? values[i + lane] : 0.0f;
    const int count = static_cast<int>(min(static_cast<int64_t>(32), end - i));
    for (int j = 0; j < count; j++) sum += static_cast<double>(__shfl_sync(kFullWarp, mine, j));
  }
  if (lane == 0) sums[block] = sum;
}

__global__ void __launch_bounds__(kThreads)
    DifferentKernel(const int32_t* a, const int32_t* b, int64_t n, unsigned long long* count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned differ = __ballot_sync(kFullWarp, i < n && a[i] != b[i]);
  if ((threadIdx.x & 31) == 0 && differ != 0)
    atomicAdd(count, static_cast<unsigned long long>(__popc(differ)));
}

}  // namespace

void LowerNearest(const float* x, int64_t n, int dim, const float* code, bool first, float* nearest,
                  cudaStream_t stream) {
  Launch(LowerNearestKernel, dim3(Blocks(n)), dim3(kThreads), 0, stream, x, n, dim, code, first, nearest);
}

void BlockSums(const float* values, int64_t n, double* sums, cudaStream_t stream) {
  Launch(BlockSumsKernel, dim3(Blocks(DivideUp<int64_t>(n, kSumBlock) * 32)), dim3(kThreads), 0, stream,
         values, n, sums);
}

void CountDifferent(const int32_t* a, const int32_t* b, int64_t n, unsigned long long* count,
                    cudaStream_t stream) {
  Launch(DifferentKernel, dim3(Blocks(n)), dim3(kThreads), 0, stream, a, b, n, count);
}

}  // namespace tokenflow::cuda
