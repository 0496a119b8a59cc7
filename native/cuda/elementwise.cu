// The ops that only move or scale values: one thread per element, neighbouring threads on neighbouring elements, so all of them
// run at the speed of memory. Arithmetic is rounded as on the CPU (products and sums apart, IEEE division): the same bits.
#include "elementwise.cuh"
#include "row8.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t elements) {
  return static_cast<unsigned>(DivideUp<int64_t>(elements, kThreads));
}

DEVICE int64_t Index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    PixelsToFloatKernel(const uint8_t* x, int64_t count, int channels, T* y) {
  const int64_t i = Index();
  if (i >= count) return;
  const int channel = static_cast<int>(i % channels);
  float v = 0.0f;
  if (channel < 3)
    v = __fdiv_rn(__fdiv_rn(static_cast<float>(x[i / channels * 3 + channel]), 255.0f) - 0.5f, 0.5f);
  StoreOne(y + i, v);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    FloatToPixelsKernel(const T* x, int64_t count, int stride, uint8_t* y) {
  const int64_t i = Index();
  if (i >= count) return;
  const float v = 127.5f * LoadOne(x + i / 3 * stride + i % 3) + 128.0f;
  y[i] = static_cast<uint8_t>(v > 0.0f ? (v < 255.0f ? v : 255.0f) : 0.0f);
}

__global__ void __launch_bounds__(kThreads)
    ScaleInputKernel(const float* x, int64_t count, int channels, const float* shift, const float* scale,
                     float* y) {
  const int64_t i = Index();
  if (i >= count) return;
  const int channel = static_cast<int>(i % channels);
  const float v = (x[i] + 1.0f) * 127.5f;
  const float clamped = v < 0.0f ? 0.0f : v > 255.0f ? 255.0f : v;
  y[i] = __fdiv_rn(__fdiv_rn(clamped, 255.0f) - shift[channel], scale[channel]);
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads) CopyBoxKernel(Box<From, To> b) {
  const int64_t i = Index();
  if (i >= b.images * b.rows * b.columns) return;
  const int64_t column = i % b.columns, row = i / b.columns % b.rows, image = i / b.columns / b.rows;
  StoreOne(b.to + image * b.to_image + row * b.to_row + column,
           LoadOne(b.from + image * b.from_image + row * b.from_row + column));
}

__global__ void __launch_bounds__(kThreads)
    AddTableKernel(const float* x, const float* table, int64_t all, int64_t count, float* y) {
  const int64_t i = Index();
  if (i < all) y[i] = x[i] + table[i % count];
}

}  // namespace

template <class T>
void PixelsToFloat(const uint8_t* x, int64_t pixels, int channels, T* y, cudaStream_t stream) {
  const int64_t count = pixels * channels;
  if (count)
    Launch(PixelsToFloatKernel<T>, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, channels, y);
}

template <class T>
void FloatToPixels(const T* x, int64_t pixels, int stride, uint8_t* y, cudaStream_t stream) {
  const int64_t count = pixels * 3;
  if (count)
    Launch(FloatToPixelsKernel<T>, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, stride, y);
}

void ScaleInput(const float* x, int64_t rows, int channels, const float* shift, const float* scale, float* y,
                cudaStream_t stream) {
  const int64_t count = rows * channels;
  if (count) {
    Launch(ScaleInputKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, channels, shift, scale,
           y);
  }
}

template <class From, class To>
void CopyBox(const Box<From, To>& box, cudaStream_t stream) {
  const int64_t count = box.images * box.rows * box.columns;
  if (count) Launch(CopyBoxKernel<From, To>, dim3(Blocks(count)), dim3(kThreads), 0, stream, box);
}

void AddTable(const float* x, const float* table, int64_t images, int64_t count, float* y,
              cudaStream_t stream) {
  const int64_t all = images * count;
  if (all) Launch(AddTableKernel, dim3(Blocks(all)), dim3(kThreads), 0, stream, x, table, all, count, y);
}

template void PixelsToFloat(const uint8_t*, int64_t, int, float*, cudaStream_t);
template void PixelsToFloat(const uint8_t*, int64_t, int, uint16_t*, cudaStream_t);
template void FloatToPixels(const float*, int64_t, int, uint8_t*, cudaStream_t);
template void FloatToPixels(const uint16_t*, int64_t, int, uint8_t*, cudaStream_t);
template void CopyBox(const Box<float, float>&, cudaStream_t);
template void CopyBox(const Box<float, uint16_t>&, cudaStream_t);
template void CopyBox(const Box<uint16_t, float>&, cudaStream_t);
template void CopyBox(const Box<uint16_t, uint16_t>&, cudaStream_t);

}  // namespace tokenflow::cuda
