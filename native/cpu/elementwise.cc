// The ops that only move or scale values, at the speed of memory.
#include <algorithm>
#include <array>
#include <cstring>

#include "cpu/op.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kGrain = 4096;

// The copy of `count` rows of `bytes` each, between different strides.
void CopyRows(const char* from, int64_t from_stride, char* to, int64_t to_stride, int64_t bytes,
              int64_t count) {
  ParallelRanges(count, std::max<int64_t>(1, kGrain / bytes), [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) std::memcpy(to + i * to_stride, from + i * from_stride, bytes);
  });
}

}  // namespace

CompiledOp Compile(const PixelsToFloat& op, Compiler& compiler) {
  const int64_t count = compiler.value(op.x).Elements();
  std::array<float, 256> table;
  for (int i = 0; i < 256; i++) table[i] = (static_cast<float>(i) / 255.0f - 0.5f) / 0.5f;
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const uint8_t* x = frame.at<uint8_t>(op.x);
    float* y = frame.at(op.y);
    ParallelRanges(count, kGrain, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) y[i] = table[x[i]];
    });
  };
  return compiled;
}

CompiledOp Compile(const FloatToPixels& op, Compiler& compiler) {
  const int64_t count = compiler.value(op.x).Elements();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const float* x = frame.at(op.x);
    uint8_t* y = frame.at<uint8_t>(op.y);
    ParallelRanges(count, kGrain, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const float v = 127.5f * x[i] + 128.0f;
        y[i] = static_cast<uint8_t>(v > 0.0f ? (v < 255.0f ? v : 255.0f) : 0.0f);  // not a number: 0
      }
    });
  };
  return compiled;
}

CompiledOp Compile(const ScaleInput& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), channels = compiler.value(op.x).Last();
  const auto shift = compiler.RequestArray({{op.shift, channels}});
  const auto scale = compiler.RequestArray({{op.scale, channels}});
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const float* x = frame.at(op.x);
    float* y = frame.at(op.y);
    ParallelRanges(rows, kGrain / 4, [&](int, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        for (int64_t c = 0; c < channels; c++) {
          const float v = (x[row * channels + c] + 1.0f) * 127.5f;
          const float clamped = v < 0.0f ? 0.0f : v > 255.0f ? 255.0f : v;
          y[row * channels + c] = (clamped / 255.0f - (*shift)->data()[c]) / (*scale)->data()[c];
        }
      }
    });
  };
  return compiled;
}

CompiledOp Compile(const PrependToken& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  const auto token = compiler.RequestArray({{op.token, x[2]}});
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const int64_t line = x[2] * 4;
    for (int64_t image = 0; image < x[0]; image++) {
      char* y = frame.at<char>(op.y) + image * (x[1] + 1) * line;
      std::memcpy(y, (*token)->data(), line);
      CopyRows(frame.at<char>(op.x) + image * x[1] * line, line, y + line, line, line, x[1]);
    }
  };
  return compiled;
}

CompiledOp Compile(const AddTable& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  const int64_t count = x[1] * x[2];
  const auto table = compiler.RequestArray({{op.table, count}});
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const float* add = (*table)->data();
    for (int64_t image = 0; image < x[0]; image++) {
      const float* from = frame.at(op.x) + image * count;
      float* to = frame.at(op.y) + image * count;
      ParallelRanges(count, kGrain, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) to[i] = from[i] + add[i];
      });
    }
  };
  return compiled;
}

CompiledOp Compile(const SliceTokens& op, Compiler& compiler) {
  const std::vector<int64_t> x = compiler.value(op.x).shape;
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    const int64_t line = x[2] * 4;
    for (int64_t image = 0; image < x[0]; image++) {
      CopyRows(frame.at<char>(op.x) + (image * x[1] + op.start) * line, line,
               frame.at<char>(op.y) + image * op.count * line, line, line, op.count);
    }
  };
  return compiled;
}

CompiledOp Compile(const SliceChannels& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), channels = compiler.value(op.x).Last();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    CopyRows(frame.at<char>(op.x) + op.start * 4, channels * 4, frame.at<char>(op.y), op.count * 4,
             op.count * 4, rows);
  };
  return compiled;
}

CompiledOp Compile(const ConcatChannels& op, Compiler& compiler) {
  std::vector<int64_t> widths;
  for (const ValueId x : op.xs) widths.push_back(compiler.value(x).Last());
  const int64_t rows = compiler.value(op.y).Rows(), width = compiler.value(op.y).Last();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    char* to = frame.at<char>(op.y);
    for (size_t i = 0; i < op.xs.size(); i++) {
      CopyRows(frame.at<char>(op.xs[i]), widths[i] * 4, to, width * 4, widths[i] * 4, rows);
      to += widths[i] * 4;
    }
  };
  return compiled;
}

// Only where the memory plan could not let both share their memory.
CompiledOp Compile(const Reshape& op, Compiler& compiler) {
  const int64_t bytes = compiler.value(op.x).Bytes();
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) { std::memcpy(frame.at<char>(op.y), frame.at<char>(op.x), bytes); };
  return compiled;
}

}  // namespace tokenflow
