// The two resizes of a multi-scale quantiser, on square NHWC grids: area down and bicubic up.
#pragma once
#include <cstdint>
#include <vector>

namespace tokenflow {

// Mean over bins [floor(i * from / to), ceil((i + 1) * from / to)), which overlap where `to` does not divide
// `from`: adaptive average pooling.
void AreaDown(const float* in,  // [batch][from][from][channels]
              int64_t batch, int from, int to, int channels,
              float* out);  // [batch][to][to][channels]

// Bicubic with a = -0.75, half-pixel centres, edges repeated, no antialiasing; exact copy when the sizes
// agree.
class BicubicUp {
 public:
  // Where a coordinate of the result comes from; plain data, so that kernels may read it.
  struct Taps {
    int at[4];
    float weight[4];
  };

  BicubicUp(int from, int to);
  int from() const { return from_; }
  int to() const { return to_; }
  const std::vector<Taps>& taps() const { return taps_; }  // [to], the same for rows and columns

  // sum += up(in), and residual -= up(in) unless null.
  void Accumulate(const float* in,  // [batch][from][from][channels]
                  int64_t batch, int channels,
                  float* sum,              // [batch][to][to][channels]
                  float* residual) const;  // likewise

 private:
  int from_, to_;
  std::vector<Taps> taps_;
};

}  // namespace tokenflow
