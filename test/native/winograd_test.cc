// WinogradConv3x3 against a float64 sum over the nine taps: odd sizes, every fused step, and the promise that
// neither the batch nor the number of threads changes a bit. Prints one line per case; exit code 1 if any
// failed, 2 if the processor lacks the level that TOKENFLOW_SIMD names.
#include "cpu/winograd.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

using tokenflow::Conv3x3Call;
using tokenflow::WinogradConv3x3;

namespace {

int failures = 0;

void Expect(bool condition, const char* what, double value) {
  if (condition) return;
  failures++;
  std::printf("  FAILED: %s (%g)\n", what, value);
}

struct Case {
  int cin, cout, batch, height, width;
  bool upsample, swish, residual;
  int groups;  // 0: no sums
};

struct Problem {
  Case c;
  std::vector<float> x, weight, bias, scale, shift, residual;

  Problem(const Case& c, unsigned seed) : c(c) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& v, size_t n, float factor, float offset) {
      v.resize(n);
      for (float& value : v) value = normal(random) * factor + offset;
    };
    const int divisor = c.upsample ? 4 : 1;
    fill(x, size_t(c.batch) * c.height * c.width / divisor * c.cin, 1.f, 0.f);
    fill(weight, size_t(c.cout) * c.cin * 9, 1.f / std::sqrt(9.f * c.cin), 0.f);
    fill(bias, c.cout, 0.2f, 0.f);
    fill(scale, size_t(c.batch) * c.cin, 0.5f, 1.f);
    fill(shift, size_t(c.batch) * c.cin, 0.5f, 0.f);
    fill(residual, size_t(c.batch) * c.height * c.width * c.cout, 1.f, 0.f);
  }

  std::vector<double> Reference() const {
    const int source_width = c.upsample ? c.width / 2 : c.width,
              source_height = c.upsample ? c.height / 2 : c.height;
    std::vector<double> y(residual.size());
    std::vector<double> taps(size_t(9) * c.cin * c.cout);  // [9][cin][cout]
    for (int o = 0; o < c.cout; o++) {
      for (int i = 0; i < c.cin; i++) {
        for (int t = 0; t < 9; t++)
          taps[(size_t(t) * c.cin + i) * c.cout + o] = weight[(size_t(o) * c.cin + i) * 9 + t];
      }
    }
    for (int b = 0; b < c.batch; b++) {
      for (int row = 0; row < c.height; row++) {
        for (int column = 0; column < c.width; column++) {
          double* out = &y[((size_t(b) * c.height + row) * c.width + column) * c.cout];
          for (int o = 0; o < c.cout; o++) {
            out[o] = bias[o] + (c.residual ? residual[out - y.data() + o] : 0.);
          }
          for (int t = 0; t < 9; t++) {
            const int r = row + t / 3 - 1, q = column + t % 3 - 1;
            if (r < 0 || q < 0 || r >= c.height || q >= c.width) continue;
            const int sr = c.upsample ? r / 2 : r, sq = c.upsample ? q / 2 : q;
            const float* pixel = &x[((size_t(b) * source_height + sr) * source_width + sq) * c.cin];
            for (int i = 0; i < c.cin; i++) {
              double value = pixel[i];
              if (c.swish) {
                value = value * scale[b * c.cin + i] + shift[b * c.cin + i];
                value /= 1 + std::exp(-value);
              }
              const double* tap = &taps[(size_t(t) * c.cin + i) * c.cout];
              for (int o = 0; o < c.cout; o++) out[o] += value * tap[o];
            }
          }
        }
      }
    }
    return y;
  }

  // Images [first, first + count) of the batch.
  void Run(int threads, int first, int count, bool in_place, std::vector<float>& y,
           std::vector<double>& sums) const {
    tokenflow::SetThreads(threads);
    const WinogradConv3x3 convolution(c.cin, c.cout, weight.data(), bias.data());
    const size_t y_image = size_t(c.height) * c.width * c.cout;
    y.assign(y_image * count, std::nanf(""));
    if (in_place) std::copy_n(&residual[first * y_image], y.size(), y.begin());
    sums.assign(size_t(2) * count * c.groups, std::nan(""));
    Conv3x3Call call;
    call.x = &x[x.size() / c.batch * first];
    call.y = y.data();
    call.batch = count;
    call.height = c.height;
    call.width = c.width;
    call.upsample = c.upsample;
    if (c.swish) call.scale = &scale[first * c.cin], call.shift = &shift[first * c.cin];
    if (c.residual) call.residual = in_place ? y.data() : &residual[first * y_image];
    if (c.groups > 0) call.group_sums = sums.data(), call.groups = c.groups;
    call.scratch_bytes = convolution.ScratchBytes(call);
    const std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, call.scratch_bytes),
                                                              std::free);
    call.scratch = scratch.get();
    std::memset(call.scratch, 0xff, call.scratch_bytes);  // NaN wherever something unwritten is read
    convolution.Run(call);
    tokenflow::SetThreads(0);
  }
};

template <class T>
bool SameBits(const std::vector<T>& a, const T* b) {
  return a.empty() || std::memcmp(a.data(), b, a.size() * sizeof(T)) == 0;
}

void Check(const Case& c, unsigned seed) {
  const Problem problem(c, seed);
  const std::vector<double> expected = problem.Reference();
  std::vector<float> y, other;
  std::vector<double> sums, other_sums;
  problem.Run(1, 0, c.batch, false, y, sums);

  double error = 0, norm = 0, largest = 0;
  for (size_t i = 0; i < y.size(); i++) {
    const double d = std::isnan(y[i]) ? 1e30 : y[i] - expected[i];
    error += d * d, norm += expected[i] * expected[i], largest = std::fmax(largest, std::fabs(d));
  }
  const double relative = std::sqrt(error / norm);
  std::printf("%4d->%4d %dx%dx%d%s%s%s groups %d: relative error %.2e, largest %.1e\n", c.cin, c.cout,
              c.batch, c.height, c.width, c.upsample ? " upsample" : "", c.swish ? " swish" : "",
              c.residual ? " residual" : "", c.groups, relative, largest);
  Expect(relative < 1.1e-6, "relative error", relative);
  Expect(largest < 3e-5, "largest error", largest);

  const size_t y_image = y.size() / c.batch;
  for (int b = 0; b < c.batch && c.groups > 0; b++) {
    for (int g = 0; g < c.groups; g++) {
      double sum = 0, squares = 0;
      const int width = c.cout / c.groups;
      for (size_t p = 0; p < y_image / c.cout; p++) {
        for (int o = g * width; o < (g + 1) * width; o++) {
          const double value = y[b * y_image + p * c.cout + o];
          sum += value, squares += value * value;
        }
      }
      const double* got = &sums[2 * (size_t(b) * c.groups + g)];
      const double count = double(y_image) / c.groups;
      Expect(std::fabs(got[0] - sum) <= 2e-7 * std::sqrt(count * squares), "group sum", got[0] - sum);
      Expect(std::fabs(got[1] - squares) <= 2e-7 * squares, "group sum of squares", got[1] - squares);
    }
  }
  for (int threads = 2; threads <= 5; threads++) {
    problem.Run(threads, 0, c.batch, false, other, other_sums);
    Expect(SameBits(y, other.data()), "same bits with other threads", threads);
    Expect(SameBits(sums, other_sums.data()), "same sums with other threads", threads);
  }
  for (int b = 0; b < c.batch; b++) {
    problem.Run(2, b, 1, c.residual, other, other_sums);
    Expect(SameBits(other, &y[b * y_image]), "same bits alone", b);
    Expect(c.groups == 0 || SameBits(other_sums, &sums[size_t(2) * b * c.groups]), "same sums alone", b);
  }
}

template <class Action>
void ExpectRefused(const char* what, Action&& action) {
  try {
    action();
    Expect(false, what, 0);
  } catch (const tokenflow::Error& error) {
    std::printf("refused as it should be: %s\n", error.what());
  }
}

}  // namespace

int main() {
  try {
    tokenflow::ActiveSimdLevel();
  } catch (const tokenflow::Error& error) {
    std::printf("%s\n", error.what());
    return 2;
  }
  std::printf("level %s\n", tokenflow::SimdLevelName(tokenflow::ActiveSimdLevel()));
  if (tokenflow::ActiveSimdLevel() == tokenflow::SimdLevel::kScalar) {
    Expect(!WinogradConv3x3::Supports(64, 64), "scalar level is refused", 0);
    return failures != 0;
  }
  Expect(WinogradConv3x3::Supports(16, 48), "16 to 48 channels", 0);
  Expect(!WinogradConv3x3::Supports(3, 64) && !WinogradConv3x3::Supports(64, 8), "3 and 8 channels", 0);

  const Case cases[] = {
      {16, 16, 1, 1, 1, false, false, false, 0},     {16, 16, 2, 4, 4, false, true, false, 4},
      {16, 32, 3, 1, 7, false, false, true, 8},      {32, 16, 1, 5, 1, false, true, true, 0},
      {48, 80, 2, 6, 10, false, false, false, 20},   {64, 64, 3, 16, 16, false, true, true, 16},
      {80, 144, 1, 13, 11, false, true, false, 36},  {32, 64, 1, 2, 2, true, false, false, 16},
      {64, 32, 2, 10, 14, true, false, true, 8},     {16, 16, 1, 30, 66, true, true, false, 4},
      {128, 128, 1, 27, 27, false, true, true, 32},  {32, 32, 1, 70, 70, false, true, false, 8},
      {16, 16, 2, 68, 131, false, false, true, 4},   {64, 192, 5, 8, 8, false, true, true, 32},
      {256, 256, 1, 16, 16, false, true, false, 32}, {512, 512, 1, 16, 16, false, true, true, 32},
      {512, 128, 3, 27, 27, false, true, false, 0},  {16, 16, 70, 4, 4, false, false, false, 0},
      {16, 64, 1, 130, 130, false, true, false, 16},
  };
  unsigned seed = 1;
  for (const Case& c : cases) Check(c, seed++);

  const std::vector<float> weight(16 * 16 * 9, 1.f);
  const WinogradConv3x3 convolution(16, 16, weight.data(), nullptr);
  std::vector<float> x(16 * 16 * 16), y(x.size());
  Conv3x3Call call;
  call.x = x.data(), call.y = y.data(), call.batch = 1, call.height = 16, call.width = 16;
  ExpectRefused("no scratch", [&] { convolution.Run(call); });
  ExpectRefused("x is y", [&] {
    Conv3x3Call bad = call;
    bad.y = x.data();
    convolution.Run(bad);
  });
  ExpectRefused("odd enlarged plane", [&] {
    Conv3x3Call bad = call;
    bad.upsample = true, bad.height = 15;
    convolution.Run(bad);
  });
  ExpectRefused("scale without shift", [&] {
    Conv3x3Call bad = call;
    bad.scale = x.data();
    convolution.Run(bad);
  });
  ExpectRefused("groups that do not divide", [&] {
    Conv3x3Call bad = call;
    double sums[6];
    bad.group_sums = sums, bad.groups = 3;
    convolution.Run(bad);
  });
  ExpectRefused("3 channels", [&] { WinogradConv3x3(3, 16, weight.data(), nullptr); });

  std::printf(failures == 0 ? "all passed\n" : "%d failures\n", failures);
  return failures != 0;
}
