// Direct convolution: for each element of the window one tap of a matrix product, whose rows are the pixels
// of the input where they lie (a row of zeros outside the map). Neither the enlarged map nor its patches are
// ever made.
#include <cstring>

#include "cpu/matmul.h"
#include "cpu/op.h"

namespace tokenflow {

namespace {

struct Geometry {
  int64_t batch, height, width, channels;  // of x
  int64_t out_height, out_width, out_channels;
  int64_t kernel, stride, top, left, upsample;
};

Geometry GeometryOf(const Conv2d& op, const Compiler& compiler) {
  const std::vector<int64_t>& x = compiler.value(op.x).shape;
  const std::vector<int64_t>& y = compiler.value(op.y).shape;
  return {x[0], x[1],      x[2],      x[3],          y[1],          y[2],
          y[3], op.kernel, op.stride, op.padding[0], op.padding[1], op.upsample};
}

// Calls visit(i, oy, ox) for `count` consecutive pixels of the output.
template <class Visit>
void ForPixels(const Geometry& g, int64_t first, int64_t count, Visit&& visit) {
  int64_t oy = first / g.out_width, ox = first % g.out_width;
  for (int64_t i = 0; i < count; i++) {
    visit(i, oy, ox);
    if (++ox == g.out_width) {
      ox = 0;
      oy++;
    }
  }
}

// One tap per element of the window.
void FillPixelTaps(const Geometry& g, const char* x, const char* zeros, int64_t pixel_bytes, int64_t first,
                   int64_t count, const void** a) {
  ForPixels(g, first, count, [&](int64_t i, int64_t oy, int64_t ox) {
    const void** to = a + i;
    for (int64_t ky = 0; ky < g.kernel; ky++) {
      const int64_t y = oy * g.stride + ky - g.top;
      const bool row_inside = y >= 0 && y < g.height * g.upsample;
      for (int64_t kx = 0; kx < g.kernel; kx++, to += count) {
        const int64_t column = ox * g.stride + kx - g.left;
        const bool inside = row_inside && column >= 0 && column < g.width * g.upsample;
        *to = inside ? x + (y / g.upsample * g.width + column / g.upsample) * pixel_bytes : zeros;
      }
    }
  });
}

// With few channels (an image) a tap would be over before it began: here a tap is a whole row of the window,
// which lies in one piece in a map that carries its padding with it.
CompiledOp CompileRowTaps(const Conv2d& op, Compiler& compiler) {
  const Geometry g = GeometryOf(op, compiler);
  const int64_t padded_height = g.height * g.upsample + op.padding[0] + op.padding[2];
  const int64_t padded_width = g.width * g.upsample + op.padding[1] + op.padding[3];
  const bool copied = padded_height != g.height || padded_width != g.width;
  const int64_t row_depth = g.kernel * g.channels;

  // [Cout][Cin][ky][kx] to taps ky of depth [kx][Cin]: packed as [Cout][depth (kx, Cin)][ky].
  const auto weight = compiler.Request<PackedMatrix>(
      "rows:f32", {{op.weight, g.out_channels * g.channels * g.kernel * g.kernel}},
      [g, row_depth](const std::vector<WeightData>& parts) {
        std::vector<float> turned(parts[0].count);
        for (int64_t o = 0; o < g.out_channels; o++) {
          for (int64_t c = 0; c < g.channels; c++) {
            for (int64_t ky = 0; ky < g.kernel; ky++) {
              for (int64_t kx = 0; kx < g.kernel; kx++) {
                turned[(o * row_depth + kx * g.channels + c) * g.kernel + ky] =
                    parts[0].data[((o * g.channels + c) * g.kernel + ky) * g.kernel + kx];
              }
            }
          }
        }
        return PackMatrix({{turned.data(), parts[0].count}}, g.out_channels, row_depth, g.kernel, false);
      });
  const auto bias =
      op.bias.empty() ? nullptr : compiler.RequestArray({{op.bias, g.out_channels}}, ActiveKernels().panel);

  CompiledOp compiled;
  if (copied) {
    compiled.scratch_bytes = [=] { return padded_height * padded_width * g.channels * 4; };
  }
  compiled.run = [=](const Frame& frame) {
    const int64_t out_pixels = g.out_height * g.out_width;
    for (int64_t image = 0; image < g.batch; image++) {
      const float* x = frame.at(op.x) + image * g.height * g.width * g.channels;
      if (copied) {
        float* padded = reinterpret_cast<float*>(frame.scratch);
        ParallelRanges(padded_height, 1, [&](int, int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; row++) {
            float* to = padded + row * padded_width * g.channels;
            std::memset(to, 0, padded_width * g.channels * 4);
            const int64_t y = row - g.top;
            if (y < 0 || y >= g.height * g.upsample) continue;
            const float* from = x + y / g.upsample * g.width * g.channels;
            to += g.left * g.channels;
            if (g.upsample == 1) {
              std::memcpy(to, from, g.width * g.channels * 4);
              continue;
            }
            for (int64_t column = 0; column < g.width * g.upsample; column++) {
              std::memcpy(to + column * g.channels, from + column / g.upsample * g.channels, g.channels * 4);
            }
          }
        });
        x = padded;
      }
      const int64_t offset = image * out_pixels * g.out_channels;
      const MatmulCall call{**weight,
                            bias == nullptr ? nullptr : (*bias)->data(),
                            op.activation,
                            op.residual == kNoValue ? nullptr : frame.at(op.residual) + offset,
                            frame.at(op.y) + offset,
                            out_pixels,
                            g.stride * g.stride * g.channels * 4};
      RunMatmul(call, [&](int64_t first, int64_t count, const void** a) {
        ForPixels(g, first, count, [&](int64_t i, int64_t oy, int64_t ox) {
          for (int64_t ky = 0; ky < g.kernel; ky++) {
            a[ky * count + i] = x + ((oy * g.stride + ky) * padded_width + ox * g.stride) * g.channels;
          }
        });
      });
    }
  };
  return compiled;
}

}  // namespace

CompiledOp Compile(const Conv2d& op, Compiler& compiler) {
  const Geometry g = GeometryOf(op, compiler);
  if (g.channels < 16) return CompileRowTaps(op, compiler);
  const bool bf16 = compiler.precision == Precision::kBf16;
  const int64_t pixel_bytes = bf16 ? EvenDepth(g.channels) * 2 : g.channels * 4;
  const int64_t taps = g.kernel * g.kernel;

  const auto weight = compiler.Request<PackedMatrix>(
      bf16 ? "taps:bf16" : "taps:f32", {{op.weight, g.out_channels * g.channels * taps}},
      [=](const std::vector<WeightData>& parts) {
        return PackMatrix(parts, g.out_channels, g.channels, taps, bf16);
      });
  const auto bias =
      op.bias.empty() ? nullptr : compiler.RequestArray({{op.bias, g.out_channels}}, ActiveKernels().panel);

  CompiledOp compiled;
  const int64_t zeros_bytes = (pixel_bytes + 63) / 64 * 64;
  compiled.scratch_bytes = [=] { return zeros_bytes + (bf16 ? g.height * g.width * pixel_bytes : 0); };
  compiled.run = [=](const Frame& frame) {
    std::memset(frame.scratch, 0, pixel_bytes);
    const int64_t out_pixels = g.out_height * g.out_width;
    for (int64_t image = 0; image < g.batch; image++) {
      const float* map = frame.at(op.x) + image * g.height * g.width * g.channels;
      const char* x = reinterpret_cast<const char*>(map);
      if (bf16) {
        char* rounded = frame.scratch + zeros_bytes;
        RowsToBf16(map, g.height * g.width, g.channels, reinterpret_cast<uint16_t*>(rounded));
        x = rounded;
      }
      const int64_t offset = image * out_pixels * g.out_channels;
      const MatmulCall call{**weight,
                            bias == nullptr ? nullptr : (*bias)->data(),
                            op.activation,
                            op.residual == kNoValue ? nullptr : frame.at(op.residual) + offset,
                            frame.at(op.y) + offset,
                            out_pixels,
                            std::min(g.stride, g.kernel) * std::min(g.stride, g.kernel) * pixel_bytes};
      RunMatmul(call, [&](int64_t first, int64_t count, const void** a) {
        FillPixelTaps(g, x, frame.scratch, pixel_bytes, first, count, a);
      });
    }
  };
  return compiled;
}

}  // namespace tokenflow
