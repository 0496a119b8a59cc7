// Queries made ready for a lookup (codebook/score.h):
//
//   seen_k = x_k / sqrt(sum x^2) over the part, or x_k        y_k = (f w_p) seen_k
//
// and, when a screen follows, y rounded to bf16 with the bound on what the rounding may do to any score:
//
//   |coarse_j - exact_j| <= |y| D + |dy| (C + D) + rounding,   dy = y - bf16(y)
//
// with C the largest norm of a code and D of a code's rounding residual; "rounding" covers the fp32 chain (d roundings)
// and a tensor core that cuts each of 16 products and its accumulator at 24 bits of the largest.
//
// One warp per query: a part's sum of squares is a chain in one lane (lane p has part p, so the parts run side by side);
// everything else is elementwise over the lanes, 32 neighbouring floats at a time. The input is read once from memory
// and once more from the cache.
#include "bf16.cuh"
#include "prepare.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

DEVICE bool IsFinite(float v) {
  return (__float_as_uint(v) & 0x7fffffffu) < 0x7f800000u;
}

DEVICE float WarpSum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kFullWarp, v, step);
  return v;
}

// sqrt of the chain of squares of v[begin, end).
DEVICE float NormOf(const float* v, int begin, int end) {
  float sum = 0.0f;
  for (int k = begin; k < end; k++) sum = fmaf(v[k], v[k], sum);
  return __fsqrt_rn(sum);
}

__global__ void __launch_bounds__(kThreads) PrepareKernel(QueryView queries, CodebookView book) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  if (q >= queries.count) return;  // whole warps leave
  const float* x = queries.x + q * book.dim;
  float* seen = queries.seen + q * book.stride;
  float* y = queries.y + q * book.stride;

  bool finite = true;
  float y_squares = 0.0f, residual_squares = 0.0f;
  for (int first_part = 0; first_part < book.part_count; first_part += 32) {
    const int parts = min(32, book.part_count - first_part);
    float norm = 1.0f;
    if (lane < parts && book.parts[first_part + lane].normalize) {
      const PartSpan part = book.parts[first_part + lane];
      norm = NormOf(x, part.begin, part.end);
    }
    for (int p = 0; p < parts; p++) {
      const PartSpan part = book.parts[first_part + p];
      const float part_norm = __shfl_sync(kFullWarp, norm, p);
      finite = finite && IsFinite(part_norm);
      for (int k = part.begin + lane; k < part.end; k += 32) {
        float value = x[k];
        finite = finite && IsFinite(value);
        if (part.normalize) value = part_norm > 0.0f ? __fdiv_rn(value, part_norm) : 0.0f;
        const float scaled = part.query_factor * value;
        finite = finite && IsFinite(scaled);
        seen[k] = value;
        y[k] = scaled;
      }
    }
  }
  finite = __all_sync(kFullWarp, finite);
  __syncwarp();

  // y as the kernels read it: harmless when the query has no nearest code, zeros from dim on.
  for (int k = lane; k < book.stride; k += 32) {
    if (k >= book.dim) seen[k] = 0.0f;
    if (k >= book.dim || !finite) y[k] = 0.0f;
  }
  if (queries.y_low != nullptr) {
    __syncwarp();
    uint16_t* low = queries.y_low + q * book.stride_low;
    for (int k = lane; k < book.stride_low; k += 32) {
      const float value = k < book.dim ? y[k] : 0.0f;
      const uint32_t rounded = PackBf16(value, 0.0f);
      const float residual = value - LowFloat(rounded);
      low[k] = static_cast<uint16_t>(rounded);
      y_squares = fmaf(value, value, y_squares);
      residual_squares = fmaf(residual, residual, residual_squares);
    }
    // 1.001: the roundings of these sums of at most 4096 squares, of their roots and of the bound itself.
    const float y_norm = __fsqrt_rn(WarpSum(y_squares)) * 1.001f;
    const float y_residual = __fsqrt_rn(WarpSum(residual_squares)) * 1.001f;
    const float code = book.largest_code + book.largest_residual;
    const float size = book.largest_norm + (y_norm + y_residual) * code;  // of any partial sum
    const float steps = static_cast<float>((book.dim + 15) / 16);
    const float rounding = (steps * 32.0f + static_cast<float>(book.dim) + 2.0f) * 1.2e-7f * size;
    const float subnormal = 1e-36f * (y_norm + code + 1.0f);  // inputs a tensor core may flush
    const float margin = (y_norm * book.largest_residual + y_residual * code + rounding + subnormal) * 1.001f;
    // A value beyond bf16 makes the margin infinite or NaN; then nothing may be discarded.
    if (lane == 0) queries.margin[q] = IsFinite(margin) ? margin : INFINITY;
  }
  if (lane == 0) {
    queries.scored[q] = finite;
    if (queries.keys != nullptr) queries.keys[q] = kNoKey;
  }
}

}  // namespace

void PrepareQueries(const QueryView& queries, const CodebookView& book, cudaStream_t stream) {
  if (queries.count == 0) return;
  const auto blocks = static_cast<unsigned>(DivideUp<int64_t>(queries.count, kWarps));
  Launch(PrepareKernel, dim3(blocks), dim3(kThreads), 0, stream, queries, book);
}

}  // namespace tokenflow::cuda
