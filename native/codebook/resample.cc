#include "codebook/resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/parallel.h"

namespace tokenflow {

void AreaDown(const float* in, int64_t batch, int from, int to, int channels, float* out) {
  const int64_t image = int64_t{from} * from * channels;
  ParallelRanges(batch * to, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float* source = in + row / to * image;
      const int i = static_cast<int>(row % to);
      const int top = i * from / to, bottom = ((i + 1) * from + to - 1) / to;
      for (int j = 0; j < to; j++) {
        const int left = j * from / to, right = ((j + 1) * from + to - 1) / to;
        float* mean = out + (row * to + j) * channels;
        std::fill(mean, mean + channels, 0.0f);
        for (int y = top; y < bottom; y++) {
          for (int x = left; x < right; x++) {
            const float* pixel = source + (int64_t{y} * from + x) * channels;
            for (int c = 0; c < channels; c++) mean[c] += pixel[c];
          }
        }
        const float area = static_cast<float>((bottom - top) * (right - left));
        for (int c = 0; c < channels; c++) mean[c] /= area;
      }
    }
  });
}

BicubicUp::BicubicUp(int from, int to) : from_(from), to_(to), taps_(to) {
  constexpr double a = -0.75;
  const auto near = [](double t) { return ((a + 2) * t - (a + 3)) * t * t + 1; };       // t <= 1
  const auto far = [](double t) { return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a; };  // 1 < t < 2
  for (int i = 0; i < to; i++) {
    const double centre = (i + 0.5) * from / to - 0.5;
    const double first = std::floor(centre);
    const double t = centre - first;
    const double weights[4] = {far(t + 1), near(t), near(1 - t), far(2 - t)};
    for (int tap = 0; tap < 4; tap++) {
      taps_[i].at[tap] = std::clamp(static_cast<int>(first) - 1 + tap, 0, from - 1);
      taps_[i].weight[tap] = static_cast<float>(weights[tap]);
    }
  }
}

void BicubicUp::Accumulate(const float* in, int64_t batch, int channels, float* sum, float* residual) const {
  const int64_t line = int64_t{to_} * channels;  // floats in a row of the result
  const auto add = [&](int64_t offset, const float* value, int64_t count) {
    for (int64_t c = 0; c < count; c++) sum[offset + c] += value[c];
    if (residual == nullptr) return;
    for (int64_t c = 0; c < count; c++) residual[offset + c] -= value[c];
  };
  if (from_ == to_) {
    ParallelRanges(batch * to_, 1, [&](int, int64_t begin, int64_t end) {
      add(begin * line, in + begin * line, (end - begin) * line);
    });
    return;
  }
  std::vector<float> wide(batch * from_ * line);  // [batch][from][to][channels]
  ParallelRanges(batch * from_, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float* source = in + row * from_ * channels;
      for (int x = 0; x < to_; x++) {
        const Taps& taps = taps_[x];
        float* out = wide.data() + row * line + int64_t{x} * channels;
        for (int c = 0; c < channels; c++) {
          float value = 0.0f;
          for (int tap = 0; tap < 4; tap++) value += source[taps.at[tap] * channels + c] * taps.weight[tap];
          out[c] = value;
        }
      }
    }
  });
  ParallelRanges(batch * to_, 1, [&](int, int64_t begin, int64_t end) {
    std::vector<float> result(line);
    for (int64_t row = begin; row < end; row++) {
      const Taps& taps = taps_[row % to_];
      const float* image = wide.data() + row / to_ * from_ * line;
      for (int64_t c = 0; c < line; c++) {
        float value = 0.0f;
        for (int tap = 0; tap < 4; tap++) value += image[taps.at[tap] * line + c] * taps.weight[tap];
        result[c] = value;
      }
      add(row * line, result.data(), line);
    }
  });
}

}  // namespace tokenflow
