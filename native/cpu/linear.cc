#include "cpu/matmul.h"
#include "cpu/op.h"

namespace tokenflow {

CompiledOp Compile(const Linear& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows();
  const int64_t depth = compiler.value(op.x).Last();
  const int64_t columns = compiler.value(op.y).Last();
  const bool bf16 = compiler.precision == Precision::kBf16;
  const int64_t stride = bf16 ? EvenDepth(depth) * 2 : depth * 4;

  const auto weight = compiler.Request<PackedMatrix>(
      bf16 ? "matrix:bf16" : "matrix:f32", EqualParts(op.weight, columns * depth),
      [=](const std::vector<WeightData>& parts) { return PackMatrix(parts, columns, depth, 1, bf16); });
  const auto bias =
      op.bias.empty() ? nullptr : compiler.RequestArray(EqualParts(op.bias, columns), ActiveKernels().panel);

  CompiledOp compiled;
  if (bf16) compiled.scratch_bytes = [=] { return rows * stride; };
  compiled.run = [=](const Frame& frame) {
    const char* x = frame.at<char>(op.x);
    if (bf16) {
      RowsToBf16(frame.at(op.x), rows, depth, reinterpret_cast<uint16_t*>(frame.scratch));
      x = frame.scratch;
    }
    const MatmulCall call{**weight,       bias == nullptr ? nullptr : (*bias)->data(),
                          op.activation,  op.residual == kNoValue ? nullptr : frame.at(op.residual),
                          frame.at(op.y), rows,
                          stride};
    RunMatmul(call, [&](int64_t first, int64_t count, const void** a) {
      for (int64_t i = 0; i < count; i++) a[i] = x + (first + i) * stride;
    });
  };
  return compiled;
}

}  // namespace tokenflow
