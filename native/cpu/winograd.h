// 3x3 convolution, stride 1, zero padding 1, channels last, by Winograd's F(4x4, 3x3): 36 products instead of
// 144 for a 4x4 tile of the output.
//
// Arithmetic: y = A^T [ (G g G^T) . (B^T d B) ] A at the points 0, +-5/8, +-3/2, infinity. Of all pairs of
// points these lose least in fp32; with sums over channels cut every 64 channels the error against float64 is
// below that of a direct convolution that sums in one chain (tools and figures: docs/performance.md).
//
// Floors. A tile costs 36 Cin Cout multiply-adds, so 2.25 of them per output where a direct convolution has
// 9: on a machine of P flop/s the best effective rate is 4 P. The transforms add 144 + 120 vector operations
// per tile and 16 channels, against 36 C of the products (C = 128: 6 %, C = 512: 1.4 %), and swish about 24
// per input pixel. Memory: the weights stay 3x3, as large as they were, and are expanded (x4) one panel of 64
// output channels at a time, in cache, once per `superblock` of tiles: 81 vector operations per 16 weights'
// columns, against 36 x tiles of the products (16 tiles: 14 %, 128 tiles: 1.8 %).
//
// One output element is computed by the same operations in the same order whatever the batch, the number of
// threads and the instruction set (AVX2 or AVX-512).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tokenflow {

struct Conv3x3Call {
  const float* x = nullptr;  // [batch][height][width][cin]; [batch][height / 2][width / 2][cin] if `upsample`
  float* y = nullptr;        // [batch][height][width][cout]; not x
  int64_t batch = 0;
  int64_t height = 0;  // of y
  int64_t width = 0;
  bool upsample = false;  // x is enlarged by two first, nearest neighbour; height and width are even

  // Both or neither: the convolution sees swish(x * scale + shift), the padding stays zero.
  const float* scale = nullptr;  // [batch][cin]
  const float* shift = nullptr;  // [batch][cin]

  const float* residual = nullptr;  // [batch][height][width][cout], added to y; may be y itself

  // Sum and sum of squares of y over each image and group of cout / groups channels, for a GroupNorm that
  // follows.
  double* group_sums = nullptr;  // [batch][groups][2]
  int64_t groups = 0;

  void* scratch = nullptr;  // 64-byte aligned
  size_t scratch_bytes = 0;
};

class WinogradConv3x3 {
 public:
  // Whether this processor (at the level in force) and these widths are served: multiples of 16 channels,
  // AVX2 or better. Otherwise a direct convolution must be used.
  static bool Supports(int64_t cin, int64_t cout);

  // `weight` is [cout][cin][3][3]; `bias` is [cout] or null. Both are copied.
  WinogradConv3x3(int64_t cin, int64_t cout, const float* weight, const float* bias);

  // What Run needs with the number of threads in force (parallel.h) for such a call.
  size_t ScratchBytes(const Conv3x3Call& call) const { return ScratchBytes(call, cin_, cout_); }
  static size_t ScratchBytes(const Conv3x3Call& call, int64_t cin, int64_t cout);

  // Throws Error on an inconsistent call.
  void Run(const Conv3x3Call& call) const;

  // Size of the weights kept.
  size_t PackedBytes() const;

 private:
  int64_t cin_;
  int64_t cout_;
  std::vector<float> weight_;  // [panel of 64 output channels][cin][9][channels of the panel]
  std::vector<float> bias_;    // [cout]
};

}  // namespace tokenflow
