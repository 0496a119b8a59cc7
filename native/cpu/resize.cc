// PyTorch's bicubic resize (runtime/bicubic.h); rows first.
#include "cpu/op.h"
#include "runtime/bicubic.h"
#include "runtime/parallel.h"

namespace tokenflow {

CompiledOp Compile(const ResizeBicubic& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  const auto rows = BicubicTapsFor(x[1], op.height), columns = BicubicTapsFor(x[2], op.width);
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const int64_t channels = x[3], stride = x[2] * channels;
    ParallelRanges(x[0] * op.height, 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const float* map = frame.at(op.x) + row / op.height * x[1] * stride;
        const BicubicTaps& v = rows[row % op.height];
        float* to = frame.at(op.y) + row * op.width * channels;
        for (const BicubicTaps& h : columns) {
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
