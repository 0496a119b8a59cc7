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

__global__ void __launch_bounds__(kThreads) PixelsToFloatKernel(const uint8_t* x, int64_t count, float* y) {
  const int64_t i = Index();
  if (i < count) y[i] = __fdiv_rn(__fdiv_rn(static_cast<float>(x[i]), 255.0f) - 0.5f, 0.5f);
}

__global__ void __launch_bounds__(kThreads) FloatToPixelsKernel(const float* x, int64_t count, uint8_t* y) {
  const int64_t i = Index();
  if (i >= count) return;
  const float v = 127.5f * x[i] + 128.0f;
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

__global__ void __launch_bounds__(kThreads) CopyBoxKernel(Box b) {
  const int64_t i = Index();
  if (i >= b.images * b.rows * b.columns) return;
  const int64_t column = i % b.columns, row = i / b.columns % b.rows, image = i / b.columns / b.rows;
  b.to[image * b.to_image + row * b.to_row + column] =
      b.from[image * b.from_image + row * b.from_row + column];
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    FitRowsKernel(const From* x, int64_t count, int64_t from_columns, To* y, int64_t to_columns) {
  const int64_t i = Index();
  if (i >= count) return;
  const int64_t row = i / to_columns, column = i - row * to_columns;
  StoreOne(y + i, column < from_columns ? LoadOne(x + row * from_columns + column) : 0.0f);
}

struct ResizeArgs {
  const float* x;
  int64_t count;  // elements of y
  int height, width, channels, out_height, out_width;
  const BicubicTaps* row_taps;
  const BicubicTaps* column_taps;
  float* y;
};

__global__ void __launch_bounds__(kThreads) ResizeKernel(ResizeArgs a) {
  const int64_t i = Index();
  if (i >= a.count) return;
  const int64_t pixel = i / a.channels;
  const int channel = static_cast<int>(i - pixel * a.channels);
  const int column = static_cast<int>(pixel % a.out_width);
  const int row = static_cast<int>(pixel / a.out_width % a.out_height);
  const int64_t image = pixel / a.out_width / a.out_height;
  const BicubicTaps rows = a.row_taps[row], columns = a.column_taps[column];
  const float* map = a.x + image * a.height * a.width * a.channels + channel;
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < 4; v++) {
    const float* from = map + static_cast<int64_t>(rows.at[v]) * a.width * a.channels;
    float line = 0.0f;
#pragma unroll
    for (int h = 0; h < 4; h++)
      line += from[static_cast<int64_t>(columns.at[h]) * a.channels] * columns.weight[h];
    sum += line * rows.weight[v];
  }
  a.y[i] = sum;
}

__global__ void __launch_bounds__(kThreads)
    AddTableKernel(const float* x, const float* table, int64_t all, int64_t count, float* y) {
  const int64_t i = Index();
  if (i < all) y[i] = x[i] + table[i % count];
}

}  // namespace

void PixelsToFloat(const uint8_t* x, int64_t count, float* y, cudaStream_t stream) {
  if (count) Launch(PixelsToFloatKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, y);
}

void FloatToPixels(const float* x, int64_t count, uint8_t* y, cudaStream_t stream) {
  if (count) Launch(FloatToPixelsKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, y);
}

void ScaleInput(const float* x, int64_t rows, int channels, const float* shift, const float* scale, float* y,
                cudaStream_t stream) {
  const int64_t count = rows * channels;
  if (count) {
    Launch(ScaleInputKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, channels, shift, scale,
           y);
  }
}

void CopyBox(const Box& box, cudaStream_t stream) {
  const int64_t count = box.images * box.rows * box.columns;
  if (count) Launch(CopyBoxKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, box);
}

template <class From, class To>
void FitRows(const From* x, int64_t rows, int64_t from_columns, To* y, int64_t to_columns,
             cudaStream_t stream) {
  const int64_t count = rows * to_columns;
  if (count) {
    Launch(FitRowsKernel<From, To>, dim3(Blocks(count)), dim3(kThreads), 0, stream, x, count, from_columns, y,
           to_columns);
  }
}

void ResizeMap(const float* x, int64_t images, int height, int width, int channels,
               const BicubicTaps* row_taps, const BicubicTaps* column_taps, int out_height, int out_width,
               float* y, cudaStream_t stream) {
  const ResizeArgs args{x,           images * out_height * out_width * channels,
                        height,      width,
                        channels,    out_height,
                        out_width,   row_taps,
                        column_taps, y};
  if (args.count) Launch(ResizeKernel, dim3(Blocks(args.count)), dim3(kThreads), 0, stream, args);
}

void AddTable(const float* x, const float* table, int64_t images, int64_t count, float* y,
              cudaStream_t stream) {
  const int64_t all = images * count;
  if (all) Launch(AddTableKernel, dim3(Blocks(all)), dim3(kThreads), 0, stream, x, table, all, count, y);
}

template void FitRows(const float*, int64_t, int64_t, float*, int64_t, cudaStream_t);
template void FitRows(const float*, int64_t, int64_t, uint16_t*, int64_t, cudaStream_t);
template void FitRows(const uint16_t*, int64_t, int64_t, float*, int64_t, cudaStream_t);
template void FitRows(const uint16_t*, int64_t, int64_t, uint16_t*, int64_t, cudaStream_t);

}  // namespace tokenflow::cuda
