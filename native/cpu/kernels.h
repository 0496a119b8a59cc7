// The vectorised kernels of the graph's ops, one table per instruction set. All are single-threaded: the ops
// (conv2d.cc, linear.cc, ...) cut their work into pieces that depend on shapes alone and hand the pieces to
// threads, so a result depends neither on the batch nor on the number of threads.
#pragma once
#include <stdint.h>

#include "runtime/activation.h"

namespace tokenflow {

// A strip of a matrix product: a few rows of A times one panel of B,
//   y[r][n] = activation(sum over taps t and depth k of A[t][r][k] B[t][k][n] + bias[n]) + residual[r][n].
// Each element is one chain of multiply-adds in the order of t, then k. A chain may be cut into several strips: what
// one leaves in `sums`, the next goes on from.
struct MatmulStrip {
  const void* const* a;   // [taps][rows] -> [depth], fp32 or bf16
  int64_t first = 0;      // elements of each row of A to pass over
  const void* b;          // [taps][depth][panel] fp32, or [taps][depth / 2][panel][2] bf16; 64-byte aligned
  int rows;               // 1 .. Kernels::strip_rows
  int taps = 1;           // a linear layer has one, a convolution one for each element of its window
  int64_t depth;          // even for bf16
  bool begins = true;     // or goes on from `sums`
  bool ends = true;       // or leaves `sums`
  float* sums = nullptr;  // [rows][panel]
  const float* bias = nullptr;  // [panel]
  Activation activation = Activation::kNone;
  const float* residual = nullptr;  // null or rows of `stride`; may be y itself
  float* y;                         // rows of `stride`
  int64_t stride;
  int columns;  // of the panel, that are stored
  // What will be read soon, brought to the second-level cache meanwhile: a line for each row of the panel, from `ahead`
  // on in steps of `ahead_step` bytes.
  const char* ahead = nullptr;
  int64_t ahead_step = 0;
};

struct Kernels {
  int panel;       // columns of a packed panel of B
  int strip_rows;  // most rows of a strip
  void (*matmul)(const MatmulStrip& strip);
  void (*matmul_bf16)(const MatmulStrip& strip);  // null where the processor has no bf16 dot products

  // Sums of x - shift and its square per channel.
  void (*channel_sums)(const float* x,  // [rows][channels]
                       int64_t rows, int64_t channels,
                       const float* shift,  // [channels]
                       float* sum,          // [channels]
                       float* square);      // [channels]
  // y = x * scale + shift, then swish if asked. y may be x.
  void (*scale_shift)(const float* x,  // [rows][channels]
                      int64_t rows, int64_t channels,
                      const float* scale,  // [channels]
                      const float* shift,  // [channels]
                      bool swish,
                      float* y);  // [rows][channels]
  // Layer normalisation over the channels. y may be x.
  void (*layer_norm)(const float* x,  // [rows][channels]
                     int64_t rows, int64_t channels, const float* weight, const float* bias,  // [channels]
                     float epsilon,
                     float* y);  // [rows][channels]
  // x becomes exp(scale x - max of that), and inverse_sum the inverse of its sum, per row.
  void (*softmax)(float* x,  // [rows][stride], `columns` of them used
                  int64_t rows, int64_t columns, int64_t stride, float scale,
                  float* inverse_sum);  // [rows]
  void (*scale_rows)(float* x,          // [rows][stride], `columns` of them used
                     int64_t rows, int64_t columns, int64_t stride,
                     const float* factor);  // [rows]
  void (*transpose)(const float* x,         // [rows][x_stride], `columns` of them used
                    int64_t x_stride, int64_t rows, int64_t columns,
                    float* y,  // [columns][y_stride], `rows` of them written
                    int64_t y_stride);
  // fp32 to bf16, to nearest even.
  void (*to_bf16)(const float* x, int64_t count, uint16_t* y);
};

// The table of the level in force (runtime/cpu_features.h).
const Kernels& ActiveKernels();

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
void MatmulBf16Avx512(const MatmulStrip& strip);

}  // namespace tokenflow
