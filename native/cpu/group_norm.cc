#include "cpu/group_norm.h"

#include <cmath>

#include "cpu/kernels.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kPiece = 128;  // pixels

struct Shape {
  int64_t batch, pixels, channels, groups;
  double epsilon;

  int64_t width() const { return channels / groups; }
  int64_t map() const { return pixels * channels; }
  int64_t pieces() const { return (pixels + kPiece - 1) / kPiece; }
};

void WriteAffine(const Shape& s, double mean, double variance, int64_t image, int64_t group,
                 const float* weight, const float* bias, float* scale, float* shift) {
  const double inverse = 1.0 / std::sqrt(std::max(variance, 0.0) + s.epsilon);
  for (int64_t c = group * s.width(); c < (group + 1) * s.width(); c++) {
    scale[image * s.channels + c] = static_cast<float>(weight[c] * inverse);
    shift[image * s.channels + c] = static_cast<float>(bias[c] - mean * weight[c] * inverse);
  }
}

// Per piece and channel the sum and the sum of squares of x - x of the first pixel.
void SumPieces(const Shape& s, const float* x, float* sums /* [batch][piece][2][channels] */) {
  ParallelRanges(s.batch * s.pieces(), 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float* origin = x + i / s.pieces() * s.map();
      const int64_t first = i % s.pieces() * kPiece;
      ActiveKernels().channel_sums(origin + first * s.channels, std::min(kPiece, s.pixels - first),
                                   s.channels, origin, sums + i * 2 * s.channels,
                                   sums + (i * 2 + 1) * s.channels);
    }
  });
}

// Mean and variance of a group from the sums of its pieces: within its channels, plus between their means.
void JoinPieces(const Shape& s, const float* x, const float* sums, int64_t image, int64_t group, double& mean,
                double& variance) {
  const double count = static_cast<double>(s.pixels), width = static_cast<double>(s.width());
  double within = 0, means = 0, squared_means = 0;
  const double origin = x[image * s.map() + group * s.width()];  // any point near the data will do
  for (int64_t c = group * s.width(); c < (group + 1) * s.width(); c++) {
    double sum = 0, square = 0;
    for (int64_t piece = 0; piece < s.pieces(); piece++) {
      const float* at = sums + (image * s.pieces() + piece) * 2 * s.channels;
      sum += at[c];
      square += at[s.channels + c];
    }
    const double own = x[image * s.map() + c] - origin + sum / count;
    within += square - sum * sum / count;
    means += own;
    squared_means += own * own;
  }
  mean = origin + means / width;
  variance = (within / count + squared_means - means * means / width) / width;
}

}  // namespace

GroupAffine CompileGroupAffine(const GroupNorm& op, Compiler& compiler) {
  const GraphValue& x = compiler.value(op.x);
  const Shape s{x.shape[0], x.Rows() / x.shape[0], x.Last(), op.groups, op.epsilon};
  const auto weight = compiler.RequestArray({{op.weight, s.channels}});
  const auto bias = compiler.RequestArray({{op.bias, s.channels}});
  const int64_t floats = s.batch * s.channels;

  if (const auto gathered = compiler.GroupSumsOf(op.x, op.groups)) {
    return {floats, floats * 8, [=](const float*, char* scratch) {
              float* scale = reinterpret_cast<float*>(scratch);
              const double count = static_cast<double>(s.pixels * s.width());
              for (int64_t i = 0; i < s.batch * s.groups; i++) {
                const double mean = (*gathered)[2 * i] / count;
                const double variance = (*gathered)[2 * i + 1] / count - mean * mean;
                WriteAffine(s, mean, variance, i / s.groups, i % s.groups, (*weight)->data(), (*bias)->data(),
                            scale, scale + floats);
              }
            }};
  }
  return {floats, floats * 8 + s.batch * s.pieces() * 2 * s.channels * 4,
          [=](const float* values, char* scratch) {
            float* scale = reinterpret_cast<float*>(scratch);
            float* sums = scale + 2 * floats;
            SumPieces(s, values, sums);
            ParallelTasks(s.batch * s.groups, [&](int64_t i) {
              double mean, variance;
              JoinPieces(s, values, sums, i / s.groups, i % s.groups, mean, variance);
              WriteAffine(s, mean, variance, i / s.groups, i % s.groups, (*weight)->data(), (*bias)->data(),
                          scale, scale + floats);
            });
          }};
}

CompiledOp Compile(const GroupNorm& op, Compiler& compiler) {
  const GroupAffine affine = CompileGroupAffine(op, compiler);
  const GraphValue& x = compiler.value(op.x);
  const int64_t batch = x.shape[0], channels = x.Last(), pixels = x.Rows() / batch;

  CompiledOp compiled;
  compiled.scratch_bytes = [=] { return affine.scratch_bytes; };
  compiled.run = [=](const Frame& frame) {
    affine.compute(frame.at(op.x), frame.scratch);
    const float* scale = reinterpret_cast<const float*>(frame.scratch);
    for (int64_t image = 0; image < batch; image++) {
      ParallelRanges(pixels, 8, [&](int, int64_t begin, int64_t end) {
        const int64_t at = (image * pixels + begin) * channels;
        ActiveKernels().scale_shift(frame.at(op.x) + at, end - begin, channels, scale + image * channels,
                                    scale + affine.floats + image * channels, op.swish, frame.at(op.y) + at);
      });
    }
  };
  return compiled;
}

}  // namespace tokenflow
