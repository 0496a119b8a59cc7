// The residual convolution that VAR puts behind the upsampling of its multi-scale quantiser (Tian et al., 2024,
// arXiv:2404.02905; `Phi` in its models/quant.py):
//   phi(h) = (1 - ratio) h + ratio (bias + conv3x3(h)),  zero padding.
#pragma once
#include <cstdint>
#include <vector>

namespace tokenflow {

class Phi {
 public:
  Phi(const float* weight,  // [dim][dim][3][3]: out, in, row, column, as PyTorch keeps it
      const float* bias,    // [dim] or null for zeros
      int dim, double ratio);

  int dim() const { return dim_; }

  // sum += phi(h), and residual -= phi(h) unless null. Every output is one chain of multiplications and additions, the
  // bias first, then tap by tap in row-major order and channel by channel: the same on every processor.
  void Accumulate(const float* h,  // [batch][grid][grid][dim]
                  int64_t batch, int grid,
                  float* sum,              // likewise
                  float* residual) const;  // likewise

 private:
  void Pixel(const float* image, int grid, int row, int column, float* out) const;

  int dim_;
  float keep_, take_;          // 1 - ratio, ratio
  std::vector<float> weight_;  // [9][in][out]
  std::vector<float> bias_;
};

// Which of `count` phis each of `scales` scales uses: the one whose tick is nearest to the scale's position from 0 to 1,
// the first of equal ones. Ticks are spread evenly (`PhiPartiallyShared` and `PhiNonShared` in models/quant.py).
std::vector<int> PhiOfScale(int count, int scales);

}  // namespace tokenflow
