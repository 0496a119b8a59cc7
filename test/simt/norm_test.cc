// Group and layer normalisation against double.
#include <cmath>
#include <cstring>

#include "check.h"
#include "group_norm.cuh"
#include "layer_norm.cuh"
#include "row8.cuh"

using namespace tokenflow;
using namespace tokenflow::cuda;
using simt::DeviceBuffer;

namespace {

template <class T>
T FromFloat(float f) {
  if constexpr (sizeof(T) == 2) return static_cast<uint16_t>(PackBf16(f, 0));
  return f;
}
template <class T>
float ToFloatOf(T v) {
  if constexpr (sizeof(T) == 2) return LowFloat(v);
  return v;
}
int Padded(int channels) {
  return (channels + 7) / 8 * 8;
}

// Rows of channels with zeros behind them up to the next multiple of 8.
template <class T>
std::vector<T> Values(simt::Random& random, int64_t rows, int channels, float offset = 0) {
  std::vector<T> v(rows * Padded(channels), FromFloat<T>(0));
  for (int64_t r = 0; r < rows; r++) {
    for (int c = 0; c < channels; c++) v[r * Padded(channels) + c] = FromFloat<T>(random.Normal() + offset);
  }
  return v;
}

template <class Out>
bool Near(double got, double want, double slack) {
  return std::fabs(got - want) <= (sizeof(Out) == 2 ? std::fabs(want) / 256 : 0) + slack;
}

template <class In, class Out>
void CheckGroupNorm(int64_t images, int pixels, int channels, int groups, bool swish, float offset = 0) {
  simt::Random random(21);
  const DeviceBuffer<In> x(Values<In>(random, images * pixels, channels, offset));
  const DeviceBuffer<float> weight(Values<float>(random, 1, channels)),
      bias(Values<float>(random, 1, channels));
  DeviceBuffer<Out> y(x.size());
  const GroupNormShape shape{images, pixels, channels, groups};
  DeviceBuffer<unsigned char> workspace(GroupNormWorkspaceBytes(shape));
  GroupNorm(shape, x.data(), weight.data(), bias.data(), 1e-6f, swish, y.data(), workspace.data(), nullptr);
  const int width = channels / groups, stride = Padded(channels);
  int wrong = 0;
  for (int64_t p = 0; p < images * pixels; p++) {
    for (int c = channels; c < stride; c++) wrong += ToFloatOf(y[p * stride + c]) != 0;
  }
  for (int64_t b = 0; b < images; b++) {
    for (int g = 0; g < groups; g++) {
      double mean = 0, spread = 0;
      const auto at = [&](int p, int c) { return (b * pixels + p) * stride + g * width + c; };
      for (int p = 0; p < pixels; p++) {
        for (int c = 0; c < width; c++) mean += ToFloatOf(x[at(p, c)]);
      }
      mean /= pixels * width;
      for (int p = 0; p < pixels; p++) {
        for (int c = 0; c < width; c++) spread += std::pow(ToFloatOf(x[at(p, c)]) - mean, 2);
      }
      const double inverse = 1 / std::sqrt(spread / (pixels * width) + 1e-6);
      for (int p = 0; p < pixels; p++) {
        for (int c = 0; c < width; c++) {
          double want =
              (ToFloatOf(x[at(p, c)]) - mean) * inverse * weight[g * width + c] + bias[g * width + c];
          if (swish) want /= 1 + std::exp(-want);
          wrong += !Near<Out>(ToFloatOf(y[at(p, c)]), want, 3e-6 * (1 + std::fabs(offset) / 4));
        }
      }
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
}

template <class In, class Out>
void CheckLayerNorm(int64_t rows, int channels, float offset = 0) {
  simt::Random random(22);
  const DeviceBuffer<In> x(Values<In>(random, rows, channels, offset));
  const DeviceBuffer<float> weight(Values<float>(random, 1, channels)),
      bias(Values<float>(random, 1, channels));
  DeviceBuffer<Out> y(x.size());
  LayerNorm(x.data(), rows, channels, weight.data(), bias.data(), 1e-5f, y.data(), nullptr);
  const int stride = Padded(channels);
  int wrong = 0;
  for (int64_t r = 0; r < rows; r++) {
    for (int c = channels; c < stride; c++) wrong += ToFloatOf(y[r * stride + c]) != 0;
    double mean = 0, spread = 0;
    for (int c = 0; c < channels; c++) mean += ToFloatOf(x[r * stride + c]);
    mean /= channels;
    for (int c = 0; c < channels; c++) spread += std::pow(ToFloatOf(x[r * stride + c]) - mean, 2);
    const double inverse = 1 / std::sqrt(spread / channels + 1e-5);
    for (int c = 0; c < channels; c++) {
      const double want = (ToFloatOf(x[r * stride + c]) - mean) * inverse * weight[c] + bias[c];
      wrong += !Near<Out>(ToFloatOf(y[r * stride + c]), want, 4e-6 * (1 + std::fabs(offset)));
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
}

}  // namespace

TEST("group norm: element types, swish, tails, every thread order") {
  simt::ForEachOrder([] {
    CheckGroupNorm<float, float>(2, 37, 128, 32, true);
    CheckGroupNorm<uint16_t, uint16_t>(1, 81, 256, 32, false);
    CheckGroupNorm<float, uint16_t>(1, 5, 32, 32, true);
  });
}

TEST("group norm: several pieces of an image, odd widths of a group, wide maps") {
  CheckGroupNorm<float, float>(2, 1100, 64, 32, true);
  CheckGroupNorm<float, float>(1, 600, 96, 12, false);
  CheckGroupNorm<float, float>(1, 9, 2048, 32, false);
  CheckGroupNorm<float, float>(1, 9, 1536, 2, false);
  CheckGroupNorm<float, float>(3, 1, 40, 5, false);
}

TEST("group norm: channels that are padded") {
  CheckGroupNorm<float, float>(2, 30, 35, 5, true);
  CheckGroupNorm<float, uint16_t>(2, 11, 7, 7, false);
  CheckGroupNorm<uint16_t, float>(2, 11, 42, 3, false);
}

TEST("group norm: a mean a thousand times the spread does not cancel") {
  CheckGroupNorm<float, float>(1, 700, 128, 32, true, 1000);
  CheckGroupNorm<float, float>(1, 700, 128, 32, false, -300);
}

TEST("group norm in place, and an image's bits in any batch") {
  simt::Random random(5);
  const std::vector<float> one = random.Normals(50 * 64);
  std::vector<float> three = random.Normals(3 * 50 * 64);
  std::copy(one.begin(), one.end(), three.begin() + 50 * 64);
  const DeviceBuffer<float> weight(random.Normals(64)), bias(random.Normals(64));
  DeviceBuffer<float> alone(one), among(three);
  for (int64_t images : {1, 3}) {
    const GroupNormShape shape{images, 50, 64, 8};
    DeviceBuffer<unsigned char> workspace(GroupNormWorkspaceBytes(shape));
    float* x = images == 1 ? alone.data() : among.data();
    GroupNorm(shape, x, weight.data(), bias.data(), 1e-6f, true, x, workspace.data(), nullptr);
  }
  CHECK(std::memcmp(alone.data(), among.data() + 50 * 64, 50 * 64 * 4) == 0);
}

TEST("group norm refuses channels it cannot split") {
  bool refused = false;
  try {
    CheckGroupNorm<float, float>(1, 4, 48, 32, false);
  } catch (const Error& error) {
    refused = error.code == "ERR_TOKENFLOW_INVALID_ARGUMENT";
  }
  CHECK(refused);
}

TEST("layer norm") {
  simt::ForEachOrder([] {
    CheckLayerNorm<float, float>(9, 768);
    CheckLayerNorm<float, uint16_t>(7, 1152, 30);
    CheckLayerNorm<uint16_t, uint16_t>(5, 8);
    CheckLayerNorm<float, float>(4, 264, 100);
    CheckLayerNorm<float, float>(5, 35, 20);
    CheckLayerNorm<float, uint16_t>(3, 1);
  });
}
