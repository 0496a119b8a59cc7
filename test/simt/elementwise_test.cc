// The ops that only move or scale values: the CPU's formulas, bit for bit.
#include "elementwise.cuh"

#include <cmath>
#include <cstring>

#include "bf16.cuh"
#include "check.h"

using namespace tokenflow::cuda;
using simt::DeviceBuffer;

TEST("pixels to float: every value, padded channels") {
  DeviceBuffer<uint8_t> x(258);
  for (int i = 0; i < 258; i++) x[i] = static_cast<uint8_t>(i);
  DeviceBuffer<float> y(86 * 4), plain(86 * 3);
  DeviceBuffer<uint16_t> low(86 * 8);
  PixelsToFloat(x.data(), 86, 4, y.data(), nullptr);
  PixelsToFloat(x.data(), 86, 3, plain.data(), nullptr);
  PixelsToFloat(x.data(), 86, 8, low.data(), nullptr);
  for (int i = 0; i < 258; i++) {
    const float want = (static_cast<float>(x[i]) / 255.0f - 0.5f) / 0.5f;
    CHECK(y[i / 3 * 4 + i % 3] == want && plain[i] == want);
    CHECK(low[i / 3 * 8 + i % 3] == static_cast<uint16_t>(PackBf16(want, 0)));
  }
  for (int p = 0; p < 86; p++) CHECK(y[p * 4 + 3] == 0 && low[p * 8 + 7] == 0);
}

TEST("float to pixels: rounding, clamping, not a number, and back") {
  std::vector<float> values = {-2, -1.0039f, -1, -0.9961f, 0, 0.5f, 0.99607f, 1, 7, NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 256; i++) values.push_back((static_cast<float>(i) / 255.0f - 0.5f) / 0.5f);
  while (values.size() % 3) values.push_back(0);
  const DeviceBuffer<float> x(values);
  DeviceBuffer<uint8_t> y(values.size());
  FloatToPixels(x.data(), static_cast<int64_t>(values.size() / 3), 3, y.data(), nullptr);
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
  CopyBox(Box<float, float>{x.data() + 2, kTokens * kChannels, kChannels, channels.data(), kTokens * 3, 3,
                            kImages, kTokens, 3},
          nullptr);
  DeviceBuffer<float> tokens(kImages * (kTokens + 1) * kChannels);
  constexpr int64_t kLonger = (kTokens + 1) * kChannels;
  CopyBox(
      Box<float, float>{token.data(), 0, kChannels, tokens.data(), kLonger, kChannels, kImages, 1, kChannels},
      nullptr);
  CopyBox(Box<float, float>{x.data(), kTokens * kChannels, kChannels, tokens.data() + kChannels, kLonger,
                            kChannels, kImages, kTokens, kChannels},
          nullptr);
  DeviceBuffer<uint16_t> low(kImages * kTokens * kChannels);
  CopyBox(Box<float, uint16_t>{x.data(), kTokens * kChannels, kChannels, low.data(), kTokens * kChannels,
                               kChannels, kImages, kTokens, kChannels},
          nullptr);
  for (int b = 0; b < kImages; b++) {
    for (int c = 0; c < kChannels; c++) CHECK(tokens[b * kLonger + c] == token[c]);
    for (int t = 0; t < kTokens; t++) {
      for (int c = 0; c < kChannels; c++) {
        const float v = x[(b * kTokens + t) * kChannels + c];
        if (c >= 2 && c < 5) CHECK(channels[(b * kTokens + t) * 3 + c - 2] == v);
        CHECK(tokens[b * kLonger + (t + 1) * kChannels + c] == v);
        CHECK(low[(b * kTokens + t) * kChannels + c] == static_cast<uint16_t>(PackBf16(v, 0)));
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
