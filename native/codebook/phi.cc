#include "codebook/phi.h"

#include <algorithm>
#include <cmath>

#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int kOutputs = 16;  // channels whose sums stay in registers

}  // namespace

Phi::Phi(const float* weight, const float* bias, int dim, double ratio)
    : dim_(dim),
      keep_(static_cast<float>(1 - ratio)),
      take_(static_cast<float>(ratio)),
      weight_(size_t{9} * dim * dim),
      bias_(dim, 0.0f) {
  for (int out = 0; out < dim; out++) {
    for (int in = 0; in < dim; in++) {
      for (int tap = 0; tap < 9; tap++) {
        weight_[(int64_t{tap} * dim + in) * dim + out] = weight[(int64_t{out} * dim + in) * 9 + tap];
      }
    }
  }
  if (bias != nullptr) bias_.assign(bias, bias + dim);
}

void Phi::Pixel(const float* image, int grid, int row, int column, float* out) const {
  for (int first = 0; first < dim_; first += kOutputs) {
    const int outputs = std::min(kOutputs, dim_ - first);
    float sums[kOutputs] = {};
    std::copy_n(bias_.data() + first, outputs, sums);
    for (int tap = 0; tap < 9; tap++) {
      const int y = row + tap / 3 - 1, x = column + tap % 3 - 1;
      if (y < 0 || y >= grid || x < 0 || x >= grid) continue;
      const float* h = image + (int64_t{y} * grid + x) * dim_;
      const float* w = weight_.data() + int64_t{tap} * dim_ * dim_ + first;
      if (outputs == kOutputs) {
        for (int in = 0; in < dim_; in++, w += dim_) {
          for (int o = 0; o < kOutputs; o++) sums[o] += h[in] * w[o];
        }
      } else {
        for (int in = 0; in < dim_; in++, w += dim_) {
          for (int o = 0; o < outputs; o++) sums[o] += h[in] * w[o];
        }
      }
    }
    const float* h = image + (int64_t{row} * grid + column) * dim_ + first;
    for (int o = 0; o < outputs; o++) out[first + o] = h[o] * keep_ + sums[o] * take_;
  }
}

void Phi::Accumulate(const float* h, int64_t batch, int grid, float* sum, float* residual) const {
  const int64_t image = int64_t{grid} * grid * dim_;
  ParallelRanges(batch * grid, 1, [&](int, int64_t begin, int64_t end) {
    std::vector<float> pixel(dim_);
    for (int64_t line = begin; line < end; line++) {
      for (int column = 0; column < grid; column++) {
        Pixel(h + line / grid * image, grid, static_cast<int>(line % grid), column, pixel.data());
        const int64_t at = (line * grid + column) * dim_;
        for (int c = 0; c < dim_; c++) sum[at + c] += pixel[c];
        if (residual == nullptr) continue;
        for (int c = 0; c < dim_; c++) residual[at + c] -= pixel[c];
      }
    }
  });
}

std::vector<int> PhiOfScale(int count, int scales) {
  // numpy.linspace(low, 1 - low, count)
  const double low = count == 4 ? 1.0 / 3 / count : 1.0 / 2 / count;
  const double high = 1 - low;
  std::vector<double> ticks(count, low);
  for (int i = 1; i < count; i++) ticks[i] = low + i * ((high - low) / (count - 1));
  if (count > 1) ticks.back() = high;
  std::vector<int> chosen(scales);
  for (int scale = 0; scale < scales; scale++) {
    const double position = scales == 1 ? 0.0 : static_cast<double>(scale) / (scales - 1);
    const auto nearer = [&](double a, double b) { return std::fabs(a - position) < std::fabs(b - position); };
    chosen[scale] = static_cast<int>(std::min_element(ticks.begin(), ticks.end(), nearer) - ticks.begin());
  }
  return chosen;
}

}  // namespace tokenflow
