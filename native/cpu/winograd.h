// 3x3 convolution, stride 1, zero padding 1, channels last, by Winograd's F(4x4, 3x3): 36 products instead of
// 144 for a 4x4 tile of the output.
//
// Arithmetic: y = A^T [ (G g G^T) . (B^T d B) ] A at the points 0, +-5/8, +-3/2, infinity. Of the pairs of
// points tried these lose least in fp32, half of what 0, +-1, +-2 lose; and sums over channels are cut every
// 64 channels, so that the error against float64 stays at 7e-7 to 8e-7 (relative, L2) whatever the number of
// channels.
//
// Floors. A tile costs 36 Cin Cout multiply-adds, 2.25 for an output where a direct convolution has 9: a
// machine of P flop/s reaches 4 P in effective terms at most. Per tile and 16 channels the products take 18 C
// cycles (two vectors a cycle), the input transform 72 (144 operations), the output transform 60, swish 7 for
// each of about 19 pixels: at C = 128 that is 2304 + 270, so 3.6 P at best, at C = 512 9216 + 270, 3.9 P.
// Memory: input and output pass once, C = 128 at 256 x 256 is 67 MB, 2.8 ms at the 24 GB/s one thread gets on
// the Zen 5 machine this was tuned on, where the products take 20 ms; transformed input and products are
// written and read once each, 4.6 KB per tile and 16 channels, from the L2 or L3 cache. The weights stay 3x3,
// as large as they were; they are expanded (x4) in scratch at every call, 40 cycles per 16 of them and a good
// 100 with the stores, against 18 x tiles cycles of the products that use them: nothing for large planes, a
// quarter of the time for one 16 x 16 plane.
//
// One output element is computed by the same operations in the same order whatever the batch, the number of
// threads and the instruction set (AVX2 or AVX-512).
#pragma once
#include <cstddef>
#include <cstdint>

#include "codebook/aligned.h"

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
  AlignedVector<float> weight_;  // [panel of 64 output channels][cin][9][channels of the panel]
  AlignedVector<float> bias_;    // [cout]
};

}  // namespace tokenflow
