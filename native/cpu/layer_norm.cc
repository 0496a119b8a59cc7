#include "cpu/kernels.h"
#include "cpu/op.h"
#include "runtime/parallel.h"

namespace tokenflow {

CompiledOp Compile(const LayerNorm& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), channels = compiler.value(op.x).Last();
  const auto weight = compiler.RequestArray({{op.weight, channels}});
  const auto bias = compiler.RequestArray({{op.bias, channels}});
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    ParallelRanges(rows, 8, [&](int, int64_t begin, int64_t end) {
      ActiveKernels().layer_norm(frame.at(op.x) + begin * channels, end - begin, channels, (*weight)->data(),
                                 (*bias)->data(), op.epsilon, frame.at(op.y) + begin * channels);
    });
  };
  return compiled;
}

}  // namespace tokenflow
