// Group norm by its neighbours: moments from the producers' registers, scale and shift applied by the convolution that follows.
// Statistics are held to double, by the bound of the separate pass (norm_test.cc); what the halo convolution makes of
// them to double as well, over exactly the normalised bf16 values that the separate pass would have stored.
#include <cmath>
#include <cstring>

#include "activation.cuh"
#include "bf16_values.h"
#include "check.h"
#include "halo_conv.cuh"
#include "row8.cuh"
#include "sgemm.cuh"

using namespace tokenflow;
using namespace tokenflow::cuda;
using simt::DeviceBuffer;

namespace {

float AsFloat(float v) {
  return v;
}
float AsFloat(uint16_t v) {
  return FromBf16(v);
}
std::vector<uint16_t> LowNormals(simt::Random& random, size_t count, float scale = 1) {
  std::vector<uint16_t> low;
  for (const float f : random.Normals(count)) low.push_back(ToBf16(f * scale));
  return low;
}

struct MomentBuffer {
  DeviceBuffer<float> values;
  Moments moments;
  MomentBuffer(int64_t images, int pieces, int channels)
      : values(images * pieces * 3 * (channels / kQuad)), moments{values.data(), pieces, channels / kQuad} {}
};

// The moments of a map say what the map holds: every pixel counted once, scale and shift as double has them.
template <class Out>
void CheckMoments(const GroupNormShape& s, const Out* y, const Moments& moments, float offset) {
  simt::Random random(31);
  const DeviceBuffer<float> weight(random.Normals(s.channels)), bias(random.Normals(s.channels));
  DeviceBuffer<float> scale(ScaleElements(s)), shift(ScaleElements(s));
  GroupNormScales(s, moments, weight.data(), bias.data(), 1e-6f, {scale.data(), shift.data()}, nullptr);
  const int width = s.channels / s.groups;
  int wrong = 0;
  for (int64_t image = 0; image < s.images; image++) {
    for (int quad = 0; quad < moments.quads; quad++) {
      double count = 0;
      for (int piece = 0; piece < moments.pieces; piece++) {
        count += moments.at[(image * moments.pieces + piece) * 3 * moments.quads + quad];
      }
      CHECK(count == static_cast<double>(s.pixels) * kQuad);
    }
    for (int group = 0; group < s.groups; group++) {
      const auto at = [&](int p, int c) -> double {
        return AsFloat(y[(image * s.pixels + p) * s.channels + group * width + c]);
      };
      double mean = 0, spread = 0;
      for (int p = 0; p < s.pixels; p++) {
        for (int c = 0; c < width; c++) mean += at(p, c);
      }
      mean /= static_cast<double>(s.pixels) * width;
      for (int p = 0; p < s.pixels; p++) {
        for (int c = 0; c < width; c++) spread += std::pow(at(p, c) - mean, 2);
      }
      const double inverse = 1 / std::sqrt(spread / (static_cast<double>(s.pixels) * width) + 1e-6);
      for (int c = 0; c < width; c++) {
        const int64_t channel = image * s.channels + group * width + c;
        const double w = weight[group * width + c], b = bias[group * width + c];
        for (int p = 0; p < s.pixels; p++) {
          const double want = (at(p, c) - mean) * inverse * w + b;
          const double got = std::fma(at(p, c), scale[channel], static_cast<double>(shift[channel]));
          wrong += !(std::fabs(got - want) <= 3e-6 * (1 + std::fabs(offset) / 4));
        }
      }
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
}

// A linear layer whose results lie about `offset`; both tiles leave the same bits.
template <class Out>
void CheckGemmMoments(int images, int rows, int channels, int groups, float offset, bool residual) {
  constexpr int kDepth = 24;
  simt::Random random(32);
  const DeviceBuffer<uint16_t> x(LowNormals(random, static_cast<size_t>(images) * rows * kDepth)),
      w(LowNormals(random, static_cast<size_t>(channels) * kDepth, 0.2f));
  DeviceBuffer<float> bias(random.Normals(channels));
  for (int c = 0; c < channels; c++) bias[c] += offset;
  std::vector<Out> added(static_cast<size_t>(images) * rows * channels);
  for (Out& v : added) {
    if constexpr (sizeof(Out) == 2) {
      v = ToBf16(random.Normal());
    } else {
      v = random.Normal();
    }
  }
  const GroupNormShape shape{images, rows, channels, groups};
  std::vector<float> first;
  for (const GemmTile tile : {GemmTile::k64x64, GemmTile::k128x128}) {
    DeviceBuffer<Out> y(added);
    MomentBuffer left(images, GemmPieces(rows), channels);
    Gemm(MatrixRows<uint16_t>{x.data(), rows, kDepth, kDepth, {1, static_cast<int64_t>(rows) * kDepth, 0}},
         {w.data(), channels, kDepth, {}}, images,
         {bias.data(), false, Activation::kNone, residual ? y.data() : nullptr, left.moments}, tile,
         ResultRows<Out>{y.data(), channels, {1, static_cast<int64_t>(rows) * channels, 0}}, channels,
         nullptr);
    CheckMoments(shape, y.data(), left.moments, offset);
    const std::vector<float> bits(left.values.data(), left.values.data() + left.values.size());
    if (first.empty()) first = bits;
    CHECK(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(float)) == 0);
  }
}

void CheckSgemmMoments(int images, int rows, int channels, int groups, float offset, bool residual) {
  constexpr int kDepth = 20;
  simt::Random random(33);
  const DeviceBuffer<float> x(random.Normals(static_cast<size_t>(images) * rows * kDepth)),
      w(random.Normals(static_cast<size_t>(channels) * kDepth, 0.2f));
  DeviceBuffer<float> bias(random.Normals(channels));
  for (int c = 0; c < channels; c++) bias[c] += offset;
  const std::vector<float> added = random.Normals(static_cast<size_t>(images) * rows * channels);
  std::vector<float> first;
  for (const int multiprocessors : {1000, 1}) {  // the small tile, the large one
    DeviceBuffer<float> y(added);
    MomentBuffer left(images, SgemmPieces(rows), channels);
    Sgemm(MatrixRows<float>{x.data(), rows, kDepth, kDepth, {1, static_cast<int64_t>(rows) * kDepth, 0}},
          {w.data(), channels, kDepth, {}}, images,
          {bias.data(), false, Activation::kNone, residual ? y.data() : nullptr, left.moments},
          multiprocessors,
          ResultRows<float>{y.data(), channels, {1, static_cast<int64_t>(rows) * channels, 0}}, nullptr);
    CheckMoments<float>({images, rows, channels, groups}, y.data(), left.moments, offset);
    const std::vector<float> bits(left.values.data(), left.values.data() + left.values.size());
    if (first.empty()) first = bits;
    CHECK(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(float)) == 0);
  }
}

struct HaloCase {
  int images, height, width, channels, columns;
  bool swish = true, residual = false;
  Activation activation = Activation::kNone;
  int groups = 0;  // of a norm that follows; 0: none
};

template <class Out>
void CheckHalo(const HaloCase& l) {
  simt::Random random(34);
  const int pixels = l.height * l.width, depth = 9 * l.channels;
  const int64_t elements = static_cast<int64_t>(l.images) * pixels;
  const DeviceBuffer<uint16_t> x(LowNormals(random, elements * l.channels));
  const DeviceBuffer<uint16_t> w(
      LowNormals(random, static_cast<size_t>(l.columns) * depth, 1 / std::sqrt(static_cast<float>(depth))));
  const GroupNormShape shape{l.images, pixels, l.channels, 1};
  DeviceBuffer<float> scale(random.Normals(ScaleElements(shape))),
      shift(random.Normals(ScaleElements(shape)));
  const DeviceBuffer<float> bias(random.Normals(l.columns));
  std::vector<Out> added(elements * l.columns);
  for (Out& v : added) {
    if constexpr (sizeof(Out) == 2) {
      v = ToBf16(random.Normal());
    } else {
      v = random.Normal();
    }
  }
  // What the separate pass stores.
  DeviceBuffer<uint16_t> normed(x.size());
  ApplyGroupNorm(shape, x.data(), {scale.data(), shift.data()}, l.swish, normed.data(), nullptr);

  std::vector<Out> first;
  std::vector<float> first_moments;
  for (const HaloTile tile : {HaloTile::k64Columns, HaloTile::k128Columns}) {
    DeviceBuffer<Out> y(added);
    MomentBuffer left(l.images, HaloPieces(l.height, l.width), l.groups > 0 ? l.columns : kQuad);
    const Epilogue epilogue{bias.data(), false, l.activation, l.residual ? y.data() : nullptr,
                            l.groups > 0 ? left.moments : Moments{}};
    HaloConv(NormedMap{x.data(), l.height, l.width, l.channels, {scale.data(), shift.data()}, l.swish},
             {w.data(), l.columns, depth, {}}, l.images, epilogue, tile,
             ResultRows<Out>{y.data(), l.columns, {1, static_cast<int64_t>(pixels) * l.columns, 0}}, nullptr);
    const std::vector<Out> bits(y.data(), y.data() + y.size());
    if (l.groups > 0) {
      CheckMoments<Out>({l.images, pixels, l.columns, l.groups}, y.data(), left.moments, 0);
      const std::vector<float> moments(left.values.data(), left.values.data() + left.values.size());
      if (first_moments.empty()) first_moments = moments;
      CHECK(std::memcmp(first_moments.data(), moments.data(), moments.size() * sizeof(float)) == 0);
    }
    CHECK(simt::counters().bank_conflicts == 0);
    if (!first.empty()) {
      CHECK(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(Out)) == 0);
      continue;
    }
    first = bits;
    int wrong = 0;
    for (int64_t p = 0; p < elements; p++) {
      const int row = static_cast<int>(p % pixels) / l.width, column = static_cast<int>(p % l.width);
      for (int n = 0; n < l.columns; n++) {
        double sum = bias[n], size = std::fabs(sum) + 1;
        for (int tap = 0; tap < 9; tap++) {
          const int ky = tap / 3 - 1, kx = tap % 3 - 1;
          if (row + ky < 0 || row + ky >= l.height || column + kx < 0 || column + kx >= l.width) continue;
          const uint16_t* from = normed.data() + (p + ky * l.width + kx) * l.channels;
          const uint16_t* weight = w.data() + static_cast<int64_t>(n) * depth + tap * l.channels;
          for (int c = 0; c < l.channels; c++) {
            const double product = static_cast<double>(FromBf16(from[c])) * FromBf16(weight[c]);
            sum += product;
            size += std::fabs(product);
          }
        }
        double want = l.activation == Activation::kSwish ? sum / (1 + std::exp(-sum)) : sum;
        if (l.residual) want += AsFloat(added[p * l.columns + n]);
        const double bound = (sizeof(Out) == 2 ? std::fabs(want) / 256 : 0) + 1e-6 * size;
        wrong += !(std::fabs(AsFloat(bits[p * l.columns + n]) - want) <= bound);
      }
    }
    if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
  }
}

}  // namespace

TEST("moments of bf16 products: tails, one row, offsets, either tile") {
  simt::ForEachOrder([] { CheckGemmMoments<uint16_t>(2, 70, 40, 5, 0, true); });
  CheckGemmMoments<uint16_t>(1, 133, 136, 34, 0, false);
  CheckGemmMoments<float>(2, 31, 64, 4, 1000, true);
  CheckGemmMoments<float>(3, 1, 8, 1, 0, false);
  CheckGemmMoments<uint16_t>(1, 300, 72, 9, 30, false);
}

TEST("moments of fp32 products: tails, one row, offsets, either tile") {
  simt::ForEachOrder([] { CheckSgemmMoments(2, 70, 40, 5, 0, true); });
  CheckSgemmMoments(1, 133, 136, 34, 0, false);
  CheckSgemmMoments(2, 31, 64, 4, 1000, true);
  CheckSgemmMoments(3, 1, 8, 1, 0, false);
  CheckSgemmMoments(1, 300, 72, 9, -300, false);
}

TEST("moments refuse groups that split a quad") {
  MomentBuffer left(1, GemmPieces(4), 24);
  DeviceBuffer<float> values(24);
  bool refused = false;
  try {
    GroupNormScales({1, 4, 24, 12}, left.moments, values.data(), values.data(), 1e-6f,
                    {values.data(), values.data()}, nullptr);
  } catch (const Error& error) {
    refused = error.code == "ERR_TOKENFLOW_INVALID_ARGUMENT";
  }
  CHECK(refused);
}

TEST("halo convolution: every thread order, edges of the map, several chunks, moments") {
  simt::ForEachOrder([] { CheckHalo<uint16_t>({1, 9, 17, 72, 40, true, true, Activation::kNone, 10}); });
}

TEST("halo convolution: maps smaller and larger than a tile, channels that end within a chunk") {
  CheckHalo<uint16_t>({2, 8, 16, 32, 64, true, false, Activation::kNone, 16});
  CheckHalo<uint16_t>({1, 3, 5, 8, 8, true, false, Activation::kNone, 1});
  CheckHalo<uint16_t>({1, 1, 33, 40, 24, false, true});
  CheckHalo<float>({1, 10, 6, 96, 136, false, true, Activation::kNone, 17});
  CheckHalo<float>({1, 12, 18, 16, 3, true, false});
  CheckHalo<uint16_t>({1, 8, 8, 24, 130, true, true});
  CheckHalo<float>({2, 5, 7, 64, 16, true, true, Activation::kSwish, 2});
}

TEST("halo convolution: an image's bits in any batch, and whatever the padding would normalise to") {
  // One image alone and as the second of three; scales of its own, and a shift that makes the norm of zero large.
  constexpr int kHeight = 9, kWidth = 18, kChannels = 40, kColumns = 16, kPixels = kHeight * kWidth;
  simt::Random random(35);
  const std::vector<uint16_t> one = LowNormals(random, kPixels * kChannels);
  std::vector<uint16_t> three = LowNormals(random, 3 * kPixels * kChannels);
  std::copy(one.begin(), one.end(), three.begin() + kPixels * kChannels);
  std::vector<float> scales = random.Normals(3 * kChannels), shifts = random.Normals(3 * kChannels);
  for (float& shift : shifts) shift += 100;
  DeviceBuffer<float> scale(scales), shift(shifts);
  const DeviceBuffer<uint16_t> w(LowNormals(random, kColumns * 9 * kChannels, 0.05f));
  DeviceBuffer<float> alone(kPixels * kColumns), among(3 * kPixels * kColumns);
  for (int images : {1, 3}) {
    const DeviceBuffer<uint16_t> x(images == 1 ? one : three);
    const int64_t at = images == 1 ? kChannels : 0;
    HaloConv(
        NormedMap{x.data(), kHeight, kWidth, kChannels, {scale.data() + at, shift.data() + at}, true},
        {w.data(), kColumns, 9 * kChannels, {}}, images, {nullptr, false, Activation::kNone, nullptr},
        HaloTile::k64Columns,
        ResultRows<float>{images == 1 ? alone.data() : among.data(), kColumns, {1, kPixels * kColumns, 0}},
        nullptr);
  }
  CHECK(std::memcmp(alone.data(), among.data() + kPixels * kColumns, kPixels * kColumns * sizeof(float)) ==
        0);
}

TEST("which maps patches cover without more waste than rows") {
  CHECK(HaloFits(256, 256) && HaloFits(16, 16) && HaloFits(8, 16) && HaloFits(14, 14));
  CHECK(!HaloFits(27, 27) && !HaloFits(8, 8) && !HaloFits(1, 64));
}

TEST("halo convolution: a NaN reaches exactly the outputs whose window contains it") {
  constexpr int kHeight = 9, kWidth = 20, kChannels = 8, kColumns = 8;
  simt::Random random(36);
  std::vector<uint16_t> low = LowNormals(random, kHeight * kWidth * kChannels);
  low[(8 * kWidth + 16) * kChannels + 1] = 0x7fc0;
  const DeviceBuffer<uint16_t> x(low), w(LowNormals(random, kColumns * 9 * kChannels, 0.1f));
  DeviceBuffer<float> scale(random.Normals(kChannels)), shift(random.Normals(kChannels)),
      y(kHeight * kWidth * kColumns);
  HaloConv(NormedMap{x.data(), kHeight, kWidth, kChannels, {scale.data(), shift.data()}, true},
           {w.data(), kColumns, 9 * kChannels, {}}, 1, {nullptr, false, Activation::kNone, nullptr},
           HaloTile::k128Columns, ResultRows<float>{y.data(), kColumns, {}}, nullptr);
  for (int p = 0; p < kHeight * kWidth; p++) {
    const bool inside = std::abs(p / kWidth - 8) <= 1 && std::abs(p % kWidth - 16) <= 1;
    for (int n = 0; n < kColumns; n++) CHECK(std::isnan(y[p * kColumns + n]) == inside);
  }
}
