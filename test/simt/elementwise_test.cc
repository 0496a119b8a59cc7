// The ops that only move or scale values: the CPU's formulas, bit for bit.
#include "elementwise.cuh"

#include <cmath>
#include <cstring>

#include "bf16.cuh"
#include "check.h"

using namespace tokenflow::cuda;
using simt::DeviceBuffer;

TEST("pixels to float: every value") {
  DeviceBuffer<uint8_t> x(258);
  for (int i = 0; i < 258; i++) x[i] = static_cast<uint8_t>(i);
  DeviceBuffer<float> y(258);
  PixelsToFloat(x.data(), 258, y.data(), nullptr);
  for (int i = 0; i < 258; i++) CHECK(y[i] == (static_cast<float>(x[i]) / 255.0f - 0.5f) / 0.5f);
}

TEST("float to pixels: rounding, clamping, not a number, and back") {
  std::vector<float> values = {-2, -1.0039f, -1, -0.9961f, 0, 0.5f, 0.99607f, 1, 7, NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 256; i++) values.push_back((static_cast<float>(i) / 255.0f - 0.5f) / 0.5f);
  const DeviceBuffer<float> x(values);
  DeviceBuffer<uint8_t> y(values.size());
  FloatToPixels(x.data(), static_cast<int64_t>(values.size()), y.data(), nullptr);
  for (size_t i = 0; i < values.size(); i++) {
    const float v = 127.5f * values[i] + 128.0f;
    CHECK(y[i] == static_cast<uint8_t>(v > 0.0f ? (v < 255.0f ? v : 255.0f) : 0.0f));
  }
  CHECK(y[9] == 0 && y[10] == 255 && y[11] == 0);
}

TEST("scale input") {
  simt::Random random(1);
  const std::vector<float> values = random.Normals(300);
  const DeviceBuffer<float> x(values), shift(std::vector<float>{0.48f, 0.46f, 0.41f}),
      scale(std::vector<float>{0.27f, 0.26f, 0.28f});
  DeviceBuffer<float> y(300);
  ScaleInput(x.data(), 100, 3, shift.data(), scale.data(), y.data(), nullptr);
  for (int i = 0; i < 300; i++) {
    const float v = (values[i] + 1.0f) * 127.5f;
    const float clamped = v < 0.0f ? 0.0f : v > 255.0f ? 255.0f : v;
    CHECK(y[i] == (clamped / 255.0f - shift[i % 3]) / scale[i % 3]);
  }
}

TEST("boxes: slice channels, concat channels, slice tokens, prepend a token") {
  simt::Random random(2);
  constexpr int kImages = 2, kTokens = 5, kChannels = 7;
  const DeviceBuffer<float> x(random.Normals(kImages * kTokens * kChannels)),
      token(random.Normals(kChannels));
  DeviceBuffer<float> channels(kImages * kTokens * 3);
  CopyBox(
      Box{x.data() + 2, kTokens * kChannels, kChannels, channels.data(), kTokens * 3, 3, kImages, kTokens, 3},
      nullptr);
  DeviceBuffer<float> tokens(kImages * (kTokens + 1) * kChannels);
  constexpr int64_t kLonger = (kTokens + 1) * kChannels;
  CopyBox(Box{token.data(), 0, kChannels, tokens.data(), kLonger, kChannels, kImages, 1, kChannels}, nullptr);
  CopyBox(Box{x.data(), kTokens * kChannels, kChannels, tokens.data() + kChannels, kLonger, kChannels,
              kImages, kTokens, kChannels},
          nullptr);
  for (int b = 0; b < kImages; b++) {
    for (int c = 0; c < kChannels; c++) CHECK(tokens[b * kLonger + c] == token[c]);
    for (int t = 0; t < kTokens; t++) {
      for (int c = 0; c < kChannels; c++) {
        const float v = x[(b * kTokens + t) * kChannels + c];
        if (c >= 2 && c < 5) CHECK(channels[(b * kTokens + t) * 3 + c - 2] == v);
        CHECK(tokens[b * kLonger + (t + 1) * kChannels + c] == v);
      }
    }
  }
}

TEST("add table, in place") {
  simt::Random random(3);
  const std::vector<float> values = random.Normals(3 * 70), table = random.Normals(70);
  DeviceBuffer<float> x(values);
  const DeviceBuffer<float> add(table);
  AddTable(x.data(), add.data(), 3, 70, x.data(), nullptr);
  for (int i = 0; i < 210; i++) CHECK(x[i] == values[i] + table[i % 70]);
}

TEST("rows cut, padded with zeros and converted") {
  simt::Random random(4);
  constexpr int kRows = 37;
  const std::vector<float> values = random.Normals(kRows * 5);
  const DeviceBuffer<float> x(values);
  DeviceBuffer<uint16_t> wide(kRows * 8);
  FitRows(x.data(), kRows, 5, wide.data(), 8, nullptr);
  DeviceBuffer<float> narrow(kRows * 3);
  FitRows(wide.data(), kRows, 8, narrow.data(), 3, nullptr);
  for (int r = 0; r < kRows; r++) {
    for (int c = 0; c < 8; c++) {
      CHECK(wide[r * 8 + c] == (c < 5 ? static_cast<uint16_t>(PackBf16(values[r * 5 + c], 0)) : 0));
    }
    for (int c = 0; c < 3; c++) CHECK(narrow[r * 3 + c] == LowFloat(wide[r * 8 + c]));
  }
}

TEST("a map resized as the definition does it, rows and columns apart") {
  simt::Random random(5);
  constexpr int kImages = 2, kHeight = 5, kWidth = 7, kChannels = 3, kTall = 9, kBroad = 4;
  const std::vector<float> values = random.Normals(kImages * kHeight * kWidth * kChannels);
  const auto rows = tokenflow::BicubicTapsFor(kHeight, kTall),
             columns = tokenflow::BicubicTapsFor(kWidth, kBroad);
  const DeviceBuffer<float> x(values);
  const DeviceBuffer<tokenflow::BicubicTaps> row_taps(rows), column_taps(columns);
  DeviceBuffer<float> y(kImages * kTall * kBroad * kChannels);
  ResizeMap(x.data(), kImages, kHeight, kWidth, kChannels, row_taps.data(), column_taps.data(), kTall, kBroad,
            y.data(), nullptr);
  size_t i = 0;
  for (int image = 0; image < kImages; image++) {
    for (const auto& v : rows) {
      for (const auto& h : columns) {
        for (int c = 0; c < kChannels; c++) {
          float sum = 0;
          for (int a = 0; a < 4; a++) {
            float line = 0;
            for (int b = 0; b < 4; b++) {
              line += values[((image * kHeight + v.at[a]) * kWidth + h.at[b]) * kChannels + c] * h.weight[b];
            }
            sum += line * v.weight[a];
          }
          CHECK(y[i++] == sum);
        }
      }
    }
  }
}
