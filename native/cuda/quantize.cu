// What a quantiser wants beside the nearest codes, from their indices:
//
//   codes[q]  = c of the nearest code
//   errors[q] = sum over the parts of the chain of (seen_k - c_k)^2, k ascending       (fp32, unweighted: codebook/score.h)
//   counts[j] += 1 for each query whose nearest code is j                              (integers, so any order will do)
//
// A warp has 32 queries. Lane by lane each computes the error of its own: a chain belongs to one thread, and 32 chains side by
// side hide its latency; the rows of a warp pass through the first-level cache, 128 bytes of each at a time. Then the warp
// copies the codes row by row, 32 neighbouring floats at once. Nothing is in shared memory.
#include "quantize.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 128;

DEVICE float ErrorOf(const CodebookView& book, const float* x, const float* c) {
  float total = 0.0f;
  for (int p = 0; p < book.part_count; p++) {
    const int begin = book.parts[p].begin, end = book.parts[p].end;
    float sum = 0.0f;
    for (int k = begin; k < end; k++) {
      const float difference = x[k] - c[k];
      sum = fmaf(difference, difference, sum);
    }
    total = __fadd_rn(total, sum);
  }
  return total;
}

__global__ void __launch_bounds__(kThreads)
    QuantizeKernel(QueryView queries, CodebookView book, const int32_t* nearest, int k,
                   QuantizeResult result) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = q - lane;
  if (first >= queries.count) return;  // whole warps leave
  const int32_t index = q < queries.count ? nearest[q * k] : kNoCode;
  if (q < queries.count) {
    if (result.errors != nullptr) {
      result.errors[q] = index == kNoCode ? NAN
                                          : ErrorOf(book, queries.seen + q * book.stride,
                                                    book.codes + static_cast<int64_t>(index) * book.stride);
    }
    if (result.counts != nullptr && index != kNoCode) atomicAdd(result.counts + index, 1);
  }
  if (result.codes == nullptr) return;
  const int rows = static_cast<int>(min(static_cast<int64_t>(32), queries.count - first));
  for (int row = 0; row < rows; row++) {
    const int32_t code = __shfl_sync(kFullWarp, index, row);
    const float* from = book.codes + static_cast<int64_t>(code) * book.stride;
    float* to = result.codes + (first + row) * book.dim;
    for (int e = lane; e < book.dim; e += 32) to[e] = code == kNoCode ? NAN : from[e];
  }
}

}  // namespace

void Quantize(const QueryView& queries, const CodebookView& book, const int32_t* nearest, int k,
              const QuantizeResult& result, cudaStream_t stream) {
  if (queries.count == 0) return;
  const auto blocks = static_cast<unsigned>(DivideUp<int64_t>(queries.count, kThreads));
  Launch(QuantizeKernel, dim3(blocks), dim3(kThreads), 0, stream, queries, book, nearest, k, result);
}

}  // namespace tokenflow::cuda
