// The residual quantiser (codebook/residual.h) between the lookups of its stages:
//
//   AddStage   sum += c, residual -= c, c the code of each row's index: one rounding each, stage after stage, which is the order
//              of the CPU. One thread per element, neighbouring threads with neighbouring elements of a row; the first of a row
//              passes its index on. An index out of range leaves its row alone and is told by an atomicMin
//   Errors     |x - sum|^2: differences in fp32, squares and their chain in double, k ascending; a chain belongs to one thread
//
// Nothing is in shared memory, and no stage waits for the host but to learn that every row found a code.
#include "residual.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>(DivideUp<int64_t>(threads, kThreads));
}

__global__ void __launch_bounds__(kThreads) StageKernel(StageArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.rows * a.codes.dim) return;
  const int64_t row = i / a.codes.dim;
  const int e = static_cast<int>(i % a.codes.dim);
  const int64_t at = row * a.groups + a.group;
  const int32_t index = a.indices[at];
  if (index < 0 || index >= a.codes.count) {
    if (e == 0) atomicMin(a.bad, static_cast<unsigned long long>(a.base + at));
    return;
  }
  const float code = a.codes.rows[static_cast<int64_t>(index) * a.codes.stride + e];
  if (a.sum != nullptr) a.sum[i] = __fadd_rn(a.first ? 0.0f : a.sum[i], code);
  if (a.residual != nullptr) a.residual[i] = __fsub_rn(a.residual[i], code);
  if (a.tokens != nullptr && e == 0) a.tokens[row * a.tokens_stride + a.tokens_at] = index;
}

__global__ void __launch_bounds__(kThreads)
    ErrorsKernel(const float* x, const float* sum, int64_t rows, int dim, float* errors) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  double error = 0.0;
  for (int k = 0; k < dim; k++) {
    const double rest = static_cast<double>(__fsub_rn(x[row * dim + k], sum[row * dim + k]));
    error += rest * rest;
  }
  errors[row] = static_cast<float>(error);
}

}  // namespace

void AddStage(const StageArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  Launch(StageKernel, dim3(Blocks(args.rows * args.codes.dim)), dim3(kThreads), 0, stream, args);
}

void ResidualErrors(const float* x, const float* sum, int64_t rows, int dim, float* errors,
                    cudaStream_t stream) {
  if (rows == 0) return;
  Launch(ErrorsKernel, dim3(Blocks(rows)), dim3(kThreads), 0, stream, x, sum, rows, dim, errors);
}

}  // namespace tokenflow::cuda
