#include "cpu/group_norm.h"

#include <cmath>

#include "cpu/kernels.h"
#include "cpu/op.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kPiece = 128;  // pixels

int64_t Pieces(int64_t pixels) {
  return (pixels + kPiece - 1) / kPiece;
}

}  // namespace

int64_t GroupStatisticsScratchBytes(const GroupNormShape& s) {
  return s.batch * Pieces(s.pixels) * 2 * s.channels * 4;
}

void GroupScaleShift(const GroupNormShape& s, const float* x, const float* weight, const float* bias,
                     char* scratch, float* scale, float* shift) {
  const int64_t pieces = Pieces(s.pixels), map = s.pixels * s.channels;
  float* sums = reinterpret_cast<float*>(scratch);  // [batch][piece][sum, square][channels]
  ParallelRanges(s.batch * pieces, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t image = i / pieces, first = i % pieces * kPiece;
      const float* origin = x + image * map;
      ActiveKernels().channel_sums(origin + first * s.channels, std::min(kPiece, s.pixels - first),
                                   s.channels, origin, sums + i * 2 * s.channels,
                                   sums + (i * 2 + 1) * s.channels);
    }
  });

  const int64_t width = s.channels / s.groups;
  ParallelTasks(s.batch * s.groups, [&](int64_t task) {
    const int64_t image = task / s.groups, first = task % s.groups * width;
    const float* origin = x + image * map;
    const double count = static_cast<double>(s.pixels);
    const auto channel = [&](int64_t c, double& mean, double& squares) {
      double sum = 0, square = 0;
      for (int64_t piece = 0; piece < pieces; piece++) {
        const float* at = sums + (image * pieces + piece) * 2 * s.channels;
        sum += at[c];
        square += at[s.channels + c];
      }
      mean = origin[c] + sum / count;
      squares = square - sum * sum / count;  // about the channel's own mean
    };
    double total = 0, within = 0, between = 0;
    for (int64_t c = first; c < first + width; c++) {
      double mean, squares;
      channel(c, mean, squares);
      total += mean;
      within += squares;
    }
    const double mean = total / static_cast<double>(width);
    for (int64_t c = first; c < first + width; c++) {
      double own, squares;
      channel(c, own, squares);
      between += (own - mean) * (own - mean);
    }
    const double variance = (within / count + between) / static_cast<double>(width);
    const double inverse = 1.0 / std::sqrt(variance + s.epsilon);
    for (int64_t c = first; c < first + width; c++) {
      scale[image * s.channels + c] = static_cast<float>(weight[c] * inverse);
      shift[image * s.channels + c] = static_cast<float>(bias[c] - mean * weight[c] * inverse);
    }
  });
}

CompiledOp Compile(const GroupNorm& op, Compiler& compiler) {
  const GraphValue& x = compiler.value(op.x);
  const GroupNormShape shape{x.shape[0], x.Rows() / x.shape[0], x.Last(), op.groups, op.epsilon};
  const auto weight = compiler.RequestArray({{op.weight, shape.channels}});
  const auto bias = compiler.RequestArray({{op.bias, shape.channels}});
  const int64_t affine = shape.batch * shape.channels;

  CompiledOp compiled;
  compiled.scratch_bytes = [=] { return affine * 8 + GroupStatisticsScratchBytes(shape); };
  compiled.run = [=](const Frame& frame) {
    float* scale = reinterpret_cast<float*>(frame.scratch);
    float* shift = scale + affine;
    GroupScaleShift(shape, frame.at(op.x), (*weight)->data(), (*bias)->data(), frame.scratch + affine * 8,
                    scale, shift);
    const int64_t map = shape.pixels * shape.channels;
    for (int64_t image = 0; image < shape.batch; image++) {
      ParallelRanges(shape.pixels, 8, [&](int, int64_t begin, int64_t end) {
        const int64_t at = image * map + begin * shape.channels;
        ActiveKernels().scale_shift(frame.at(op.x) + at, end - begin, shape.channels,
                                    scale + image * shape.channels, shift + image * shape.channels, op.swish,
                                    frame.at(op.y) + at);
      });
    }
  };
  return compiled;
}

}  // namespace tokenflow
