// The ops that only move or scale values (lib/graph/ops.ts); see elementwise.cu.
#pragma once
#include "launch.cuh"
#include "runtime/bicubic.h"

namespace tokenflow::cuda {

// u8 to [-1, 1]: (x / 255 - 0.5) / 0.5.
void PixelsToFloat(const uint8_t* x, int64_t count, float* y, cudaStream_t stream);

// float to u8: trunc(clamp(127.5 x + 128, 0, 255)), not a number becomes 0.
void FloatToPixels(const float* x, int64_t count, uint8_t* y, cudaStream_t stream);

// y = (clamp((x + 1) 127.5, 0, 255) / 255 - shift[c]) / scale[c].
void ScaleInput(const float* x, int64_t rows, int channels, const float* shift, const float* scale, float* y,
                cudaStream_t stream);

// A box of [images][rows][columns] out of one tensor into another: slices and concatenations of channels and tokens, a
// prepended token (from_image 0 repeats it). Strides in elements.
struct Box {
  const float* from;
  int64_t from_image, from_row;
  float* to;
  int64_t to_image, to_row;
  int64_t images, rows, columns;
};
void CopyBox(const Box& box, cudaStream_t stream);

// [rows][from_columns] to [rows][to_columns], converted: cut, or padded with zeros.
template <class From, class To>
void FitRows(const From* x, int64_t rows, int64_t from_columns, To* y, int64_t to_columns,
             cudaStream_t stream);

// y[image][i] = x[image][i] + table[i]; y may be x.
void AddTable(const float* x, const float* table, int64_t images, int64_t count, float* y,
              cudaStream_t stream);

// y = the bicubic resize of x, rows first, in the CPU's order (runtime/bicubic.h).
void ResizeMap(const float* x,  // [images][height][width][channels]
               int64_t images, int height, int width, int channels,
               const BicubicTaps* row_taps,     // [out_height]
               const BicubicTaps* column_taps,  // [out_width]
               int out_height, int out_width, float* y, cudaStream_t stream);

}  // namespace tokenflow::cuda
