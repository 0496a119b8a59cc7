// Attention against double: widths of the models and between the instantiated ones, tails of queries and keys.
#include "attention.cuh"

#include <cmath>

#include "attention_matrix.cuh"
#include "bf16.cuh"
#include "check.h"

using namespace tokenflow;
using namespace tokenflow::cuda;
using simt::DeviceBuffer;

namespace {

template <class T>
T FromFloat(float f) {
  if constexpr (sizeof(T) == 2) return static_cast<uint16_t>(PackBf16(f, 0));
  return f;
}
double ToDouble(uint16_t v) {
  return LowFloat(v);
}
double ToDouble(float v) {
  return v;
}

enum class Way { kTiles, kMatrix };

template <class T>
void CheckAttention(Way way, int64_t images, int tokens, int heads, int width, float spread = 1) {
  simt::Random random(31);
  const int channels = heads * width;
  std::vector<T> values(images * tokens * 3 * channels);
  for (T& v : values) v = FromFloat<T>(random.Normal() * spread);
  const DeviceBuffer<T> qkv(values);
  DeviceBuffer<T> y(images * tokens * channels);
  const float scale = 1 / std::sqrt(static_cast<float>(width));
  if (way == Way::kTiles) {
    if constexpr (sizeof(T) == 2)
      Attention(qkv.data(), images, tokens, heads, width, scale, y.data(), nullptr);
  } else {
    DeviceBuffer<unsigned char> workspace(AttentionMatrixBytes<T>(images, tokens, heads, width));
    AttentionMatrix(qkv.data(), images, tokens, heads, width, scale, 100, y.data(), workspace.data(),
                    nullptr);
  }
  int wrong = 0;
  std::vector<double> p(tokens);
  for (int64_t b = 0; b < images; b++) {
    for (int h = 0; h < heads; h++) {
      const auto at = [&](int token, int part, int c) {
        return ToDouble(qkv[((b * tokens + token) * 3 + part) * channels + h * width + c]);
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
          // bf16: P is rounded, then the result is.
          const double rounding = sizeof(T) == 2 ? size / 256 + std::fabs(want) / 256 : 0;
          const double got = ToDouble(y[(b * tokens + i) * channels + h * width + c]);
          wrong += !(std::fabs(got - want) <= rounding + 1e-5 * (1 + spread * spread));
        }
      }
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
  CHECK(simt::counters().bank_conflicts == 0);
}

void CheckAttention(int64_t images, int tokens, int heads, int width, float spread = 1) {
  CheckAttention<uint16_t>(Way::kTiles, images, tokens, heads, width, spread);
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

TEST("attention by way of the scores: fp32 heads, and single wide heads in both types") {
  simt::ForEachOrder([] { CheckAttention<float>(Way::kMatrix, 2, 37, 3, 20); });
  CheckAttention<float>(Way::kMatrix, 1, 70, 2, 64, 3);
  CheckAttention<float>(Way::kMatrix, 1, 65, 1, 160);
  CheckAttention<uint16_t>(Way::kMatrix, 2, 49, 1, 160);
  CheckAttention<uint16_t>(Way::kMatrix, 1, 64, 2, 136, 2);
  CheckAttention<float>(Way::kMatrix, 3, 1, 1, 8);
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
