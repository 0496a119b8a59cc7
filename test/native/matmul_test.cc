// Matrix products against the one chain of multiply-adds that defines an element of them, bit for bit: whatever the
// strips, the pieces a long depth is cut into, the blocks of rows and the threads. Exit code 1 if any differs, 2 if the
// processor lacks the level that TOKENFLOW_SIMD names.
#include "cpu/matmul.h"

#include <cmath>
#include <cstring>

#include "expect.h"

using namespace tokenflow;

namespace {

struct Case {
  int64_t rows, columns, depth, taps;
};

void ExpectSame(const std::vector<float>& expected, const std::vector<float>& received, const Case& c,
                const char* what) {
  if (std::memcmp(expected.data(), received.data(), expected.size() * sizeof(float)) == 0) return;
  std::printf("failed: %s, %d rows, %d columns, depth %d, %d taps\n", what, static_cast<int>(c.rows),
              static_cast<int>(c.columns), static_cast<int>(c.depth), static_cast<int>(c.taps));
  std::exit(1);
}

// Taps of a row: the rows that follow it, as the pixels under a convolution's window.
template <class Row>
auto TapsOf(const Case& c, Row&& row) {
  return [&c, row](int64_t first, int64_t count, const void** a) {
    for (int64_t tap = 0; tap < c.taps; tap++) {
      for (int64_t i = 0; i < count; i++) a[tap * count + i] = row(first + i + tap);
    }
  };
}

void Check(const Case& c) {
  Numbers numbers(c.rows * 31 + c.columns * 7 + c.depth + c.taps);
  const std::vector<float> x = numbers.Floats((c.rows + c.taps) * c.depth);
  const std::vector<float> weight = numbers.Floats(c.columns * c.depth * c.taps);  // [columns][depth][taps]
  const std::vector<float> residual = numbers.Floats(c.rows * c.columns);
  const int64_t width = ActiveKernels().panel;
  std::vector<float> bias = numbers.Floats((c.columns + width - 1) / width * width);

  const bool fused = ActiveSimdLevel() != SimdLevel::kScalar;  // vector.h
  std::vector<float> expected(c.rows * c.columns);
  for (int64_t r = 0; r < c.rows; r++) {
    for (int64_t n = 0; n < c.columns; n++) {
      float sum = 0;
      for (int64_t t = 0; t < c.taps; t++) {
        for (int64_t k = 0; k < c.depth; k++) {
          const float a = x[(r + t) * c.depth + k], b = weight[(n * c.depth + k) * c.taps + t];
          sum = fused ? std::fma(a, b, sum) : a * b + sum;
        }
      }
      sum += bias[n];
      expected[r * c.columns + n] = sum + residual[r * c.columns + n];
    }
  }

  const auto matrix =
      PackMatrix({{weight.data(), c.columns * c.depth * c.taps}}, c.columns, c.depth, c.taps, false).value;
  std::vector<float> y = residual;  // added to itself, as in a residual block
  RunMatmul({*matrix, bias.data(), Activation::kNone, y.data(), y.data(), c.rows, c.depth * 4},
            TapsOf(c, [&](int64_t row) { return x.data() + row * c.depth; }));
  ExpectSame(expected, y, c, "fp32");
}

// bf16 pairs are summed as the processor does: an uncut strip is the reference.
void CheckBf16(const Case& c) {
  Numbers numbers(c.rows + c.columns + c.depth + c.taps);
  const int64_t padded = EvenDepth(c.depth);
  const std::vector<float> x = numbers.Floats((c.rows + c.taps) * c.depth);
  const std::vector<float> weight = numbers.Floats(c.columns * c.depth * c.taps);
  std::vector<uint16_t> rounded((c.rows + c.taps) * padded);
  RowsToBf16(x.data(), c.rows + c.taps, c.depth, rounded.data());
  const auto matrix =
      PackMatrix({{weight.data(), c.columns * c.depth * c.taps}}, c.columns, c.depth, c.taps, true).value;
  const auto taps = TapsOf(c, [&](int64_t row) { return rounded.data() + row * padded; });

  std::vector<float> expected(c.rows * c.columns), y(c.rows * c.columns);
  std::vector<const void*> a(c.taps);
  for (int64_t row = 0; row < c.rows; row++) {
    taps(row, 1, a.data());
    for (int64_t column = 0; column < c.columns; column += ActiveKernels().panel) {
      MatmulStrip strip;
      strip.a = a.data();
      strip.b = matrix->Panel(column / ActiveKernels().panel);
      strip.rows = 1;
      strip.taps = static_cast<int>(c.taps);
      strip.depth = padded;
      strip.y = expected.data() + row * c.columns + column;
      strip.stride = c.columns;
      strip.columns = static_cast<int>(std::min<int64_t>(ActiveKernels().panel, c.columns - column));
      ActiveKernels().matmul_bf16(strip);
    }
  }
  RunMatmul({*matrix, nullptr, Activation::kNone, nullptr, y.data(), c.rows, padded * 2}, taps);
  ExpectSame(expected, y, c, "bf16");
}

}  // namespace

int main() {
  RequireLevel();
  const Case cases[] = {{1, 1, 1, 1},      {7, 130, 767, 1},    {97, 64, 768, 1},
                        {5, 70, 769, 1},   {257, 200, 1999, 1}, {101, 330, 3072, 1},
                        {3, 16, 12289, 1}, {400, 96, 40, 9},    {33, 48, 1000, 2}};
  for (const int threads : {1, 2, 3}) {
    SetThreads(threads);
    for (const Case& c : cases) {
      Check(c);
      if (ActiveKernels().matmul_bf16 != nullptr) CheckBf16(c);
    }
  }
  std::printf("all passed\n");
}
