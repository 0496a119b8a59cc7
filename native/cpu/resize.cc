// PyTorch's bicubic resize: a = -0.75, half-pixel centres, borders clamped, no antialiasing; rows first.
#include <array>
#include <cmath>

#include "cpu/op.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

struct Taps {
  std::array<int64_t, 4> at;
  std::array<float, 4> weight;
};

std::vector<Taps> TapsFor(int64_t from, int64_t to) {
  constexpr float kA = -0.75f;
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const auto near = [](float x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; };
  const auto far = [](float x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; };
  std::vector<Taps> taps;
  for (int64_t i = 0; i < to; i++) {
    const float source = scale * (static_cast<float>(i) + 0.5f) - 0.5f;
    const float floor = std::floor(source);
    const float t = source - floor;
    Taps tap{{}, {far(t + 1), near(t), near(1 - t), far(2 - t)}};
    for (int64_t k = 0; k < 4; k++) {
      tap.at[k] = std::min(std::max(static_cast<int64_t>(floor) - 1 + k, int64_t{0}), from - 1);
    }
    taps.push_back(tap);
  }
  return taps;
}

}  // namespace

CompiledOp Compile(const ResizeBicubic& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  const auto rows = TapsFor(x[1], op.height), columns = TapsFor(x[2], op.width);
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const int64_t channels = x[3], stride = x[2] * channels;
    ParallelRanges(x[0] * op.height, 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const float* map = frame.at(op.x) + row / op.height * x[1] * stride;
        const Taps& v = rows[row % op.height];
        float* to = frame.at(op.y) + row * op.width * channels;
        for (const Taps& h : columns) {
          for (int64_t c = 0; c < channels; c++) {
            float sum = 0;
            for (int i = 0; i < 4; i++) {
              const float* from = map + v.at[i] * stride + c;
              float line = 0;
              for (int j = 0; j < 4; j++) line += from[h.at[j] * channels] * h.weight[j];
              sum += line * v.weight[i];
            }
            *to++ = sum;
          }
        }
      }
    });
  };
  return compiled;
}

}  // namespace tokenflow
