// Rows moved and widened, one thread per element:
//
//   GatherRows   to[i][begin + e] = codes[index of i][e]; neighbouring threads have neighbouring elements of one row, so a row
//                is read and written in whole lines. Which index is the first out of range, an atomicMin says
//   Slice, Put   columns of rows taken out, and a column put in among others
//   Widen        16-bit floats to fp32, exact: bf16 are the upper bits; fp16 has its exponent moved, and its subnormals
//                become normal by a multiplication that is exact
//
// Nothing is in shared memory.
#include "gather.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t elements) {
  return static_cast<unsigned>(DivideUp<int64_t>(elements, kThreads));
}

struct GatherArgs {
  CodeRows codes;
  const int32_t* indices;
  int64_t count;  // elements
  int groups, group;
  int64_t base;
  float* to;
  int to_stride, begin;
  unsigned long long* first;
};

__global__ void __launch_bounds__(kThreads) GatherKernel(GatherArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const int64_t row = i / a.codes.dim;
  const int e = static_cast<int>(i % a.codes.dim);
  const int64_t at = row * a.groups + a.group;
  const int32_t index = a.indices[at];
  if (index < 0 || index >= a.codes.count) {
    if (e == 0) atomicMin(a.first, static_cast<unsigned long long>(a.base + at));
    return;
  }
  a.to[row * a.to_stride + a.begin + e] = a.codes.rows[static_cast<int64_t>(index) * a.codes.stride + e];
}

__global__ void __launch_bounds__(kThreads)
    SliceKernel(const float* from, int64_t count, int stride, int begin, int dim, float* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i / dim * stride + begin + i % dim];
}

__global__ void __launch_bounds__(kThreads)
    PutKernel(const int32_t* from, int64_t count, int32_t* to, int stride, int at) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i * stride + at] = from[i];
}

DEVICE float FloatOfBFloat16(uint16_t v) {
  return __uint_as_float(static_cast<uint32_t>(v) << 16);
}

DEVICE float FloatOfHalf(uint16_t v) {
  const uint32_t sign = static_cast<uint32_t>(v & 0x8000) << 16;
  const uint32_t exponent = v >> 10 & 31, fraction = v & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal
  return sign != 0 ? -small : small;
}

template <bool kHalf>
__global__ void __launch_bounds__(kThreads) WidenKernel(const uint16_t* from, int64_t count, float* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = kHalf ? FloatOfHalf(from[i]) : FloatOfBFloat16(from[i]);
}

}  // namespace

void GatherRows(const CodeRows& codes, const int32_t* indices, int64_t count, int groups, int group,
                int64_t base, float* to, int to_stride, int begin, unsigned long long* first,
                cudaStream_t stream) {
  if (count == 0) return;
  const int64_t elements = count * codes.dim;
  Launch(GatherKernel, dim3(Blocks(elements)), dim3(kThreads), 0, stream,
         GatherArgs{codes, indices, elements, groups, group, base, to, to_stride, begin, first});
}

void SliceColumns(const float* from, int64_t count, int stride, int begin, int dim, float* to,
                  cudaStream_t stream) {
  if (count == 0) return;
  Launch(SliceKernel, dim3(Blocks(count * dim)), dim3(kThreads), 0, stream, from, count * dim, stride, begin,
         dim, to);
}

void PutColumn(const int32_t* from, int64_t count, int32_t* to, int stride, int at, cudaStream_t stream) {
  if (count == 0) return;
  Launch(PutKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, from, count, to, stride, at);
}

void WidenHalf(const uint16_t* from, int64_t count, float* to, cudaStream_t stream) {
  if (count == 0) return;
  Launch(WidenKernel<true>, dim3(Blocks(count)), dim3(kThreads), 0, stream, from, count, to);
}

void WidenBFloat16(const uint16_t* from, int64_t count, float* to, cudaStream_t stream) {
  if (count == 0) return;
  Launch(WidenKernel<false>, dim3(Blocks(count)), dim3(kThreads), 0, stream, from, count, to);
}

}  // namespace tokenflow::cuda
