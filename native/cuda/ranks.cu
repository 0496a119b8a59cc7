// What is left to do with the places a lookup found, one thread per element of the result:
//
//   TakeRanks      to[r][i] = from[r][i], i < k of `ranks`: a margin wants a second place where one was asked for
//   Margins        |distance of the second - distance of the first|; NaN without a first, infinity without a second
//   FirstMissing   the smallest row without a first, by a 64-bit atomicMin, whose result no order can change
//
// Memory passes through once; nothing is in shared memory.
#include "codebook/score.h"
#include "ranks.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t elements) {
  return static_cast<unsigned>(DivideUp<int64_t>(elements, kThreads));
}

__global__ void __launch_bounds__(kThreads)
    TakeRanksKernel(const uint32_t* from, int64_t count, int ranks, int k, uint32_t* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i / k * ranks + i % k];
}

__global__ void __launch_bounds__(kThreads)
    MarginsKernel(const int32_t* indices, const float* distances, int64_t rows, int ranks, float* margins) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int64_t at = row * ranks;
  float margin = INFINITY;
  if (indices[at] == kNoCode) {
    margin = NAN;
  } else if (ranks > 1 && indices[at + 1] != kNoCode) {
    margin = fabsf(distances[at + 1] - distances[at]);
  }
  margins[row] = margin;
}

__global__ void __launch_bounds__(kThreads)
    FirstMissingKernel(const int32_t* indices, int64_t rows, int ranks, int64_t base,
                       unsigned long long* first) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row < rows && indices[row * ranks] == kNoCode) {
    atomicMin(first, static_cast<unsigned long long>(base + row));
  }
}

}  // namespace

void TakeRanks(const void* from, int64_t rows, int ranks, int k, void* to, cudaStream_t stream) {
  if (rows == 0) return;
  Launch(TakeRanksKernel, dim3(Blocks(rows * k)), dim3(kThreads), 0, stream,
         static_cast<const uint32_t*>(from), rows * k, ranks, k, static_cast<uint32_t*>(to));
}

void Margins(const int32_t* indices, const float* distances, int64_t rows, int ranks, float* margins,
             cudaStream_t stream) {
  if (rows == 0) return;
  Launch(MarginsKernel, dim3(Blocks(rows)), dim3(kThreads), 0, stream, indices, distances, rows, ranks,
         margins);
}

void FirstMissing(const int32_t* indices, int64_t rows, int ranks, int64_t base, unsigned long long* first,
                  cudaStream_t stream) {
  if (rows == 0) return;
  Launch(FirstMissingKernel, dim3(Blocks(rows)), dim3(kThreads), 0, stream, indices, rows, ranks, base,
         first);
}

}  // namespace tokenflow::cuda
