// The ops that only move or scale values. All of them store fp32, also in bf16 programs (element.h).
#include <algorithm>

#include "elementwise.cuh"
#include "op.h"

namespace tokenflow::cuda {

namespace {

// A box whose images, rows and columns lie densely in both tensors, each row `from_row` and `to_row` elements wide.
Box DenseBox(const float* from, int64_t from_row, float* to, int64_t to_row, int64_t rows, int64_t columns) {
  return {from, 0, from_row, to, 0, to_row, 1, rows, columns};
}

}  // namespace

CompiledOp Compile(const ops::PixelsToFloat& op, Compiler& compiler) {
  const int64_t count = compiler.value(op.x).Elements();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    PixelsToFloat(frame.at<const uint8_t>(op.x), count, frame.at(op.y), frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::FloatToPixels& op, Compiler& compiler) {
  const int64_t count = compiler.value(op.x).Elements();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    FloatToPixels(frame.at<const float>(op.x), count, frame.at<uint8_t>(op.y), frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::ScaleInput& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), channels = compiler.value(op.x).Last();
  const auto shift = compiler.RequestArray({{op.shift, channels}});
  const auto scale = compiler.RequestArray({{op.scale, channels}});
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    ScaleInput(frame.at<const float>(op.x), rows, static_cast<int>(channels), (*shift)->data(),
               (*scale)->data(), frame.at(op.y), frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::PrependToken& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  const int64_t line = x[2], image = x[1] * line;
  const auto token = compiler.RequestArray({{op.token, line}});
  CompiledOp compiled;
  compiled.run = [=, images = x[0], tokens = x[1]](const Frame& frame) {
    float* y = frame.at(op.y);
    CopyBox(Box{(*token)->data(), 0, line, y, image + line, line, images, 1, line}, frame.stream);
    CopyBox(Box{frame.at(op.x), image, line, y + line, image + line, line, images, tokens, line},
            frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::AddTable& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  const int64_t count = x[1] * x[2];
  const auto table = compiler.RequestArray({{op.table, count}});
  CompiledOp compiled;
  compiled.run = [=, images = x[0]](const Frame& frame) {
    AddTable(frame.at<const float>(op.x), (*table)->data(), images, count, frame.at(op.y), frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::SliceTokens& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  CompiledOp compiled;
  compiled.run = [=, images = x[0], line = x[2], image = x[1] * x[2]](const Frame& frame) {
    CopyBox(Box{frame.at(op.x) + op.start * line, image, line, frame.at(op.y), op.count * line, line, images,
                op.count, line},
            frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::SliceChannels& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), channels = compiler.value(op.x).Last();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    CopyBox(DenseBox(frame.at(op.x) + op.start, channels, frame.at(op.y), op.count, rows, op.count),
            frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::ConcatChannels& op, Compiler& compiler) {
  std::vector<int64_t> widths;
  for (const ValueId x : op.xs) widths.push_back(compiler.value(x).Last());
  const int64_t rows = compiler.value(op.y).Rows(), width = compiler.value(op.y).Last();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    float* to = frame.at(op.y);
    for (size_t i = 0; i < op.xs.size(); i++) {
      CopyBox(DenseBox(frame.at(op.xs[i]), widths[i], to, width, rows, widths[i]), frame.stream);
      to += widths[i];
    }
  };
  return compiled;
}

// Only where the memory plan could not let both share their memory.
CompiledOp Compile(const ops::Reshape& op, Compiler& compiler) {
  const int64_t bytes = compiler.value(op.x).Elements() * BytesOf(compiler.element(op.x));
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    Check(cudaMemcpyAsync(frame.values[op.y], frame.values[op.x], static_cast<size_t>(bytes),
                          cudaMemcpyDeviceToDevice, frame.stream),
          "copying a value");
  };
  return compiled;
}

CompiledOp Compile(const ops::ResizeBicubic& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  if (std::max({x[1], x[2], x[3], op.height, op.width}) > INT32_MAX / 2)
    Unsupported("a resize of such a map");
  // Shared by the closure's copies; made here, on the card that compiles.
  const auto rows = std::make_shared<DeviceArray>(Upload(BicubicTapsFor(x[1], op.height)));
  const auto columns = std::make_shared<DeviceArray>(Upload(BicubicTapsFor(x[2], op.width)));
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    ResizeMap(frame.at<const float>(op.x), x[0], static_cast<int>(x[1]), static_cast<int>(x[2]),
              static_cast<int>(x[3]), rows->data<BicubicTaps>(), columns->data<BicubicTaps>(),
              static_cast<int>(op.height), static_cast<int>(op.width), frame.at(op.y), frame.stream);
  };
  return compiled;
}

}  // namespace tokenflow::cuda
