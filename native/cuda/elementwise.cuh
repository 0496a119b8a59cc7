// The ops that only move or scale values (lib/graph/ops.ts); see elementwise.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// u8 [pixels][3] to [pixels][channels] in [-1, 1]: (x / 255 - 0.5) / 0.5, further channels 0 (a first convolution wants a
// multiple of 16 bytes). T is float or uint16_t (bf16).
template <class T>
void PixelsToFloat(const uint8_t* x, int64_t pixels, int channels, T* y, cudaStream_t stream);

// float to u8: trunc(clamp(127.5 x + 128, 0, 255)), not a number becomes 0. `stride` elements of x per pixel, 3 are read.
template <class T>
void FloatToPixels(const T* x, int64_t pixels, int stride, uint8_t* y, cudaStream_t stream);

// y = (clamp((x + 1) 127.5, 0, 255) / 255 - shift[c]) / scale[c].
void ScaleInput(const float* x, int64_t rows, int channels, const float* shift, const float* scale, float* y,
                cudaStream_t stream);

// A box of [images][rows][columns] out of one tensor into another, converted: slices and concatenations of channels and
// tokens, a prepended token (image_stride 0 repeats it), a change of element type. Strides in elements.
template <class From, class To>
struct Box {
  const From* from;
  int64_t from_image, from_row;
  To* to;
  int64_t to_image, to_row;
  int64_t images, rows, columns;
};
template <class From, class To>
void CopyBox(const Box<From, To>& box, cudaStream_t stream);

// y[image][i] = x[image][i] + table[i]; y may be x.
void AddTable(const float* x, const float* table, int64_t images, int64_t count, float* y,
              cudaStream_t stream);

}  // namespace tokenflow::cuda
