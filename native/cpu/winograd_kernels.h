// The steps of winograd.h that are compiled once per instruction set. No step knows threads or blocks.
#pragma once
#include <cstdint>

namespace tokenflow {

constexpr int kWinogradTile = 4;          // outputs per side of a tile; it reads 6 x 6 inputs
constexpr int kWinogradFrequencies = 36;  // 6 x 6
constexpr int kWinogradPanel = 64;        // output channels handled together
constexpr int kWinogradChunk = 64;        // input channels summed in registers before they join the total
// Channels that lie together in transformed input, [channels / 16][tile][16]: the product's rows are then a
// constant apart.
constexpr int kWinogradGroup = 16;

// A rectangle of tiles of one image.
struct WinogradRegion {
  int64_t image;
  int64_t tile_row, tile_col;    // of its first tile
  int64_t tile_rows, tile_cols;  // its extent
};

// Where the pixels of one image and one run of channels come from.
struct WinogradInput {
  const float* x;         // [height][width][channel_stride], at the first channel wanted
  int64_t height, width;  // of the convolution's plane, that is after upsampling
  int64_t channel_stride;
  bool upsample;
  const float* scale;  // [channels] or null
  const float* shift;  // [channels] or null
};

// Where the results of one image and one panel of channels go.
struct WinogradOutput {
  float* y;               // [height][width][channel_stride], at the panel's first channel
  const float* residual;  // as y, or null
  const float* bias;      // [channels]
  double* sums;           // [2][channels] to add sums and sums of squares to, or null
  int64_t height, width;
  int64_t channel_stride;
};

struct WinogradKernels {
  // B^T d B of every tile of a region.
  void (*transform_input)(const WinogradInput& input, const WinogradRegion& region, int64_t channels,
                          float* patch,  // work space, [channels / 16][6][4 tile_cols + 2][16]
                          float* v,  // [36 x frequency_stride]: [channels / 16 x group_stride]: [tile][16]
                          int64_t group_stride, int64_t frequency_stride);

  // G g G^T.
  void (*transform_weights)(const float* weight,  // [cin][9][channels]
                            int64_t cin, int64_t channels,
                            float* u,  // [36 x frequency_stride]: [cin][channels]
                            int64_t frequency_stride);

  // m = v u, or m += v u unless `first`, for one frequency.
  void (*multiply)(const float* v,  // [cin / 16 x group_stride]: [tiles][16]
                   int64_t group_stride,
                   int64_t frequency_stride,  // to the next frequency's v, which is fetched meanwhile
                   const float* u,            // [cin][channels]
                   float* m,                  // [tiles][channels]
                   int64_t tiles, int64_t cin, int64_t channels, bool first);

  // A^T m A of every tile of a region, and the epilogue.
  void (*transform_output)(const float* m,  // [36 x frequency_stride]: [tile][channels]
                           int64_t frequency_stride, int64_t channels, const WinogradRegion& region,
                           const WinogradOutput& output);
};

const WinogradKernels& WinogradKernelsAvx2();
const WinogradKernels& WinogradKernelsAvx512();

}  // namespace tokenflow
