// Rows of vectors checked and made ready:
//
//   FirstNonFinite   the smallest row with an element that is not finite: one thread per element, an atomicMin for the bad ones
//   NormalizeRows    x_k / sqrt(chain of x^2), k ascending; a row whose squares sum to 0 becomes zeros
//
// A chain belongs to one thread, so a warp has 32 rows: lane by lane each takes the norm of its own, then the warp divides row
// by row, 32 neighbouring floats at once. Nothing is in shared memory.
#include "rows.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>(DivideUp<int64_t>(threads, kThreads));
}

__global__ void __launch_bounds__(kThreads)
    NonFiniteKernel(const float* x, int64_t count, int dim, unsigned long long* first) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count || (__float_as_uint(x[i]) & 0x7fffffffu) < 0x7f800000u) return;
  atomicMin(first, static_cast<unsigned long long>(i / dim));
}

__global__ void __launch_bounds__(kThreads) NormalizeKernel(float* x, int64_t n, int dim) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = row - lane;
  if (first >= n) return;  // whole warps leave
  float sum = 0.0f;
  for (int k = 0; row < n && k < dim; k++) sum = fmaf(x[row * dim + k], x[row * dim + k], sum);
  const float norm = __fsqrt_rn(sum);
  __syncwarp();
  const int rows = static_cast<int>(min(static_cast<int64_t>(32), n - first));
  for (int r = 0; r < rows; r++) {
    const float divisor = __shfl_sync(kFullWarp, norm, r);
    float* v = x + (first + r) * dim;
    for (int k = lane; k < dim; k += 32) v[k] = divisor > 0.0f ? __fdiv_rn(v[k], divisor) : 0.0f;
  }
}

}  // namespace

void FirstNonFinite(const float* x, int64_t n, int dim, unsigned long long* first, cudaStream_t stream) {
  if (n == 0) return;
  Launch(NonFiniteKernel, dim3(Blocks(n * dim)), dim3(kThreads), 0, stream, x, n * dim, dim, first);
}

void NormalizeRows(float* x, int64_t n, int dim, cudaStream_t stream) {
  if (n == 0) return;
  Launch(NormalizeKernel, dim3(Blocks(n)), dim3(kThreads), 0, stream, x, n, dim);
}

}  // namespace tokenflow::cuda
