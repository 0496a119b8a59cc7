// Attention against double: widths of the models and between the instantiated ones, tails of queries and keys.
#include "attention.cuh"

#include <cmath>

#include "bf16.cuh"
#include "check.h"

using namespace tokenflow;
using namespace tokenflow::cuda;
using simt::DeviceBuffer;

namespace {

void CheckAttention(int64_t images, int tokens, int heads, int width, float spread = 1) {
  simt::Random random(31);
  const int channels = heads * width;
  std::vector<uint16_t> values(images * tokens * 3 * channels);
  for (auto& v : values) v = static_cast<uint16_t>(PackBf16(random.Normal() * spread, 0));
  const DeviceBuffer<uint16_t> qkv(values);
  DeviceBuffer<uint16_t> y(images * tokens * channels);
  const float scale = 1 / std::sqrt(static_cast<float>(width));
  Attention(qkv.data(), images, tokens, heads, width, scale, y.data(), nullptr);
  int wrong = 0;
  std::vector<double> p(tokens);
  for (int64_t b = 0; b < images; b++) {
    for (int h = 0; h < heads; h++) {
      const auto at = [&](int token, int part, int c) {
        return static_cast<double>(
            LowFloat(qkv[((b * tokens + token) * 3 + part) * channels + h * width + c]));
      };
      for (int i = 0; i < tokens; i++) {
        double most = -1e300, total = 0;
        for (int j = 0; j < tokens; j++) {
          p[j] = 0;
          for (int c = 0; c < width; c++) p[j] += at(i, 0, c) * at(j, 1, c);
          p[j] *= scale;
          most = std::max(most, p[j]);
        }
        for (double& v : p) total += v = std::exp(v - most);
        for (int c = 0; c < width; c++) {
          double want = 0, size = 0;
          for (int j = 0; j < tokens; j++) {
            want += p[j] / total * at(j, 2, c);
            size += p[j] / total * std::fabs(at(j, 2, c));
          }
          // P is rounded to bf16, then the result is.
          const double bound = size / 256 + std::fabs(want) / 256 + 1e-5 * (1 + spread * spread);
          wrong += !(std::fabs(LowFloat(y[(b * tokens + i) * channels + h * width + c]) - want) <= bound);
        }
      }
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
  CHECK(simt::counters().bank_conflicts == 0);
}

}  // namespace

TEST("attention: one tile, several tiles, tails, every thread order") {
  simt::ForEachOrder([] {
    CheckAttention(1, 17, 1, 64);
    CheckAttention(2, 65, 3, 64, 2);
    CheckAttention(1, 150, 2, 72);
  });
  CheckAttention(1, 64, 1, 64);
  CheckAttention(1, 128, 1, 64);
}

TEST("attention: every instantiated width and widths between") {
  for (int width : {8, 16, 24, 32, 40, 64, 80, 88, 96, 104, 128}) CheckAttention(1, 70, 2, width);
}

TEST("attention: 257 tokens, sharp softmax") {
  CheckAttention(1, 257, 1, 64, 4);
}

TEST("attention: one token attends to itself") {
  CheckAttention(3, 1, 2, 64);
}

TEST("attention refuses a head it has no kernel for") {
  for (int width : {0, 12, 136}) {
    bool refused = false;
    try {
      Attention(nullptr, 1, 4, 1, width, 1, nullptr, nullptr);
    } catch (const Error& error) {
      refused = error.code == "ERR_TOKENFLOW_INVALID_ARGUMENT";
    }
    CHECK(refused);
  }
}
