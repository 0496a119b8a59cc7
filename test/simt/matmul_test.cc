// Linear layers and convolutions: bf16 on tensor cores against double with a bound per element, fp32 against a scalar chain
// bit for bit.
#include <cmath>
#include <cstring>
#include <memory>

#include "bf16.cuh"
#include "bf16_values.h"
#include "check.h"
#include "gemm.cuh"
#include "sgemm.cuh"

using namespace tokenflow;
using namespace tokenflow::cuda;
using simt::DeviceBuffer;

namespace {

float Rounded(float f) {
  return FromBf16(ToBf16(f));
}

double Applied(Activation activation, double x) {
  switch (activation) {
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::kQuickGelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::kSwish:
      return x / (1 + std::exp(-x));
    default:
      return x;
  }
}

int Multiple(int value, int of) {
  return (value + of - 1) / of * of;
}

// A layer in either element type. `kernel` 0: linear, height x width are its rows.
struct Layer {
  int images = 1, height = 1, width = 1, channels = 8, columns = 8;
  int kernel = 0, stride = 1, top = 0, left = 0, bottom = 0, right = 0, upsample = 0;
  Activation activation = Activation::kNone;
  bool bias = true, residual = false;

  int depth() const { return kernel == 0 ? channels : kernel * kernel * channels; }
  int out_height() const {
    return kernel == 0 ? height : ((height << upsample) + top + bottom - kernel) / stride + 1;
  }
  int out_width() const {
    return kernel == 0 ? width : ((width << upsample) + left + right - kernel) / stride + 1;
  }
  int rows() const { return out_height() * out_width(); }
};

// Visits the products of one output in the order of k: f(x element, w element), positions in unpadded arrays.
template <class F>
void ForProducts(const Layer& l, int image, int row, int column, F&& f) {
  if (l.kernel == 0) {
    for (int c = 0; c < l.channels; c++) {
      f((static_cast<int64_t>(image) * l.rows() + row) * l.channels + c,
        static_cast<int64_t>(column) * l.depth() + c);
    }
    return;
  }
  const int oy = row / l.out_width(), ox = row % l.out_width();
  for (int ky = 0; ky < l.kernel; ky++) {
    for (int kx = 0; kx < l.kernel; kx++) {
      const int y = oy * l.stride - l.top + ky, x = ox * l.stride - l.left + kx;
      if (y < 0 || x < 0 || y >= l.height << l.upsample || x >= l.width << l.upsample) continue;
      for (int c = 0; c < l.channels; c++) {
        f(((static_cast<int64_t>(image) * l.height + (y >> l.upsample)) * l.width + (x >> l.upsample)) *
                  l.channels +
              c,
          static_cast<int64_t>(column) * l.depth() + (ky * l.kernel + kx) * l.channels + c);
      }
    }
  }
}

template <class T>
WindowRows<T> Window(const Layer& l, const T* x) {
  return {x,        l.height, l.width, l.channels, l.out_height(), l.out_width(),
          l.kernel, l.stride, l.top,   l.left,     l.upsample};
}

struct Data {
  std::vector<float> x, w, bias, residual;
  Data(const Layer& l, bool low) {
    simt::Random random(17);
    x = random.Normals(static_cast<size_t>(l.images) * l.height * l.width * l.channels);
    w = random.Normals(static_cast<size_t>(l.columns) * l.depth(),
                       1 / std::sqrt(static_cast<float>(l.depth())));
    bias = random.Normals(l.columns);
    residual = random.Normals(static_cast<size_t>(l.images) * l.rows() * l.columns);
    if (low) {
      for (auto* v : {&x, &w, &residual}) {
        for (float& f : *v) f = Rounded(f);
      }
    }
  }
};

// Behind each row of weights lies this much that is NaN and must not count.
constexpr int kPad = 8;

template <class T>
DeviceBuffer<T>* Packed(const Layer& l, const std::vector<float>& w) {
  const int stride = l.depth() + kPad;
  auto* packed = new DeviceBuffer<T>(static_cast<size_t>(l.columns) * stride);
  for (int n = 0; n < l.columns; n++) {
    for (int k = 0; k < l.depth(); k++) {
      const float f = w[static_cast<size_t>(n) * l.depth() + k];
      if constexpr (sizeof(T) == 2) {
        (*packed)[static_cast<size_t>(n) * stride + k] = ToBf16(f);
      } else {
        (*packed)[static_cast<size_t>(n) * stride + k] = f;
      }
    }
  }
  return packed;
}

template <class Out>
float AsFloat(Out v) {
  if constexpr (sizeof(Out) == 2) return FromBf16(v);
  return v;
}
template <class Out>
Out FromFloat(float f) {
  if constexpr (sizeof(Out) == 2) return ToBf16(f);
  return f;
}

template <class Out>
void CheckLow(const Layer& l, GemmTile tile, int extra_stride = 0) {
  const Data d(l, true);
  std::vector<uint16_t> low(d.x.size());
  for (size_t i = 0; i < low.size(); i++) low[i] = ToBf16(d.x[i]);
  const DeviceBuffer<uint16_t> x(low);
  std::unique_ptr<DeviceBuffer<uint16_t>> w(Packed<uint16_t>(l, d.w));
  const DeviceBuffer<float> bias(d.bias);
  const int stride = Multiple(l.columns, 8) + extra_stride;
  DeviceBuffer<Out> y(static_cast<size_t>(l.images) * l.rows() * stride);
  for (int r = 0; l.residual && r < l.images * l.rows(); r++) {  // in place, as a residual block runs
    for (int n = 0; n < l.columns; n++)
      y[static_cast<size_t>(r) * stride + n] =
          FromFloat<Out>(d.residual[static_cast<size_t>(r) * l.columns + n]);
  }
  const Epilogue epilogue{l.bias ? bias.data() : nullptr, false, l.activation,
                          l.residual ? y.data() : nullptr};
  const PackedColumns<uint16_t> packed{w->data(), l.columns, l.depth() + kPad, {}};
  const ResultRows<Out> result{y.data(), stride, {1, static_cast<int64_t>(l.rows()) * stride, 0}};
  if (l.kernel == 0) {
    const MatrixRows<uint16_t> rows{
        x.data(), l.rows(), l.channels, l.channels, {1, static_cast<int64_t>(l.rows()) * l.channels, 0}};
    Gemm(rows, packed, l.images, epilogue, tile, result, l.columns, nullptr);
  } else {
    Gemm(Window(l, x.data()), packed, l.images, epilogue, tile, result, l.columns, nullptr);
  }
  int wrong = 0;
  for (int image = 0; image < l.images; image++) {
    for (int r = 0; r < l.rows(); r++) {
      for (int n = 0; n < l.columns; n++) {
        double sum = l.bias ? d.bias[n] : 0, size = std::fabs(sum) + 1;
        ForProducts(l, image, r, n, [&](int64_t i, int64_t j) {
          sum += static_cast<double>(d.x[i]) * d.w[j];
          size += std::fabs(static_cast<double>(d.x[i]) * d.w[j]);
        });
        const size_t row = static_cast<size_t>(image) * l.rows() + r;
        double want = Applied(l.activation, sum);
        if (l.residual) want += d.residual[row * l.columns + n];
        const double got = AsFloat(y[row * stride + n]);
        const double bound =
            (sizeof(Out) == 2 ? std::fabs(want) / 256 : 0) + 1e-6 * size;  // half a bf16 step, fp32 sums
        if (!(std::fabs(got - want) <= bound) && wrong++ == 0) {
          simt::Fail("image " + std::to_string(image) + " row " + std::to_string(r) + " column " +
                     std::to_string(n) + ": " + std::to_string(got) + ", expected " + std::to_string(want));
        }
      }
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
  // What lies between the rows stays as it was.
  const std::vector<unsigned char> untouched(sizeof(Out) * stride, 0xff);
  for (int r = 0; r < l.images * l.rows(); r++) {
    const Out* gap = &y[static_cast<size_t>(r) * stride + l.columns];
    CHECK(std::memcmp(gap, untouched.data(), sizeof(Out) * (stride - l.columns)) == 0);
  }
  CHECK(simt::counters().bank_conflicts == 0);
}

void CheckFloat(const Layer& l, int multiprocessors) {
  const Data d(l, false);
  const DeviceBuffer<float> x(d.x), bias(d.bias);
  std::unique_ptr<DeviceBuffer<float>> w(Packed<float>(l, d.w));
  DeviceBuffer<float> y(d.residual);
  const Epilogue epilogue{l.bias ? bias.data() : nullptr, false, l.activation,
                          l.residual ? y.data() : nullptr};
  const PackedColumns<float> packed{w->data(), l.columns, l.depth() + kPad, {}};
  const ResultRows<float> result{y.data(), l.columns, {1, static_cast<int64_t>(l.rows()) * l.columns, 0}};
  if (l.kernel == 0) {
    const MatrixRows<float> rows{
        x.data(), l.rows(), l.channels, l.channels, {1, static_cast<int64_t>(l.rows()) * l.channels, 0}};
    Sgemm(rows, packed, l.images, epilogue, multiprocessors, result, nullptr);
  } else {
    Sgemm(Window(l, x.data()), packed, l.images, epilogue, multiprocessors, result, nullptr);
  }
  int wrong = 0;
  for (int image = 0; image < l.images; image++) {
    for (int r = 0; r < l.rows(); r++) {
      for (int n = 0; n < l.columns; n++) {
        float sum = 0;
        ForProducts(l, image, r, n, [&](int64_t i, int64_t j) { sum = std::fma(d.x[i], d.w[j], sum); });
        if (l.bias) sum += d.bias[n];
        const size_t at = (static_cast<size_t>(image) * l.rows() + r) * l.columns + n;
        if (l.activation == Activation::kNone) {
          if (l.residual) sum += d.residual[at];
          wrong += std::memcmp(&sum, &y[at], 4) != 0;
        } else {
          double want = Applied(l.activation, sum);
          if (l.residual) want += d.residual[at];
          wrong += !(std::fabs(y[at] - want) <= 4e-7 * (std::fabs(want) + std::fabs(sum) + 1));
        }
      }
    }
  }
  if (wrong) simt::Fail(std::to_string(wrong) + " wrong elements");
  CHECK(simt::counters().bank_conflicts == 0);
}

Layer Linear(int images, int rows, int channels, int columns) {
  Layer l;
  l.images = images, l.height = rows, l.channels = channels, l.columns = columns;
  return l;
}
Layer Conv(int images, int height, int width, int channels, int columns, int kernel = 3) {
  Layer l;
  l.images = images, l.height = height, l.width = width, l.channels = channels, l.columns = columns,
  l.kernel = kernel;
  l.top = l.left = l.bottom = l.right = kernel == 3 ? 1 : 0;
  return l;
}
Layer Down(Layer l) {
  l.stride = 2, l.top = l.left = 0;
  return l;
}
Layer Up(Layer l) {
  l.upsample = 1;
  return l;
}
Layer With(Layer l, Activation activation, bool residual = false, bool bias = true) {
  l.activation = activation, l.residual = residual, l.bias = bias;
  return l;
}

constexpr auto kSmall = GemmTile::k64x64;
constexpr auto kLarge = GemmTile::k128x128;

}  // namespace

TEST("bf16 linear: tails in every extent, every thread order") {
  simt::ForEachOrder([] {
    CheckLow<uint16_t>(Linear(1, 70, 40, 72), kSmall);
    CheckLow<uint16_t>(With(Linear(2, 33, 200, 36), Activation::kNone, true), kSmall);
    CheckLow<float>(With(Linear(1, 130, 72, 136), Activation::kGelu, true), kLarge);
  });
}

TEST("bf16 linear: every activation") {
  for (int a = 0; a < 6; a++)
    CheckLow<float>(With(Linear(1, 20, 32, 24), static_cast<Activation>(a), a % 2 == 0, a != 3), kSmall);
}

TEST("bf16 linear: three columns, one row, a single stage, a wide y") {
  CheckLow<uint16_t>(Linear(1, 130, 72, 3), kLarge);
  CheckLow<uint16_t>(Linear(3, 1, 8, 1), kSmall);
  CheckLow<float>(Linear(1, 9, 32, 20), kSmall, 40);
}

TEST("bf16 convolution 3x3, 1x1, stride 2, upsampled") {
  simt::ForEachOrder([] {
    CheckLow<uint16_t>(With(Conv(2, 7, 5, 32, 40), Activation::kNone, true), kSmall);
    CheckLow<uint16_t>(Down(Conv(1, 9, 8, 24, 8)), kSmall);
  });
  CheckLow<uint16_t>(Conv(1, 9, 11, 8, 16), kSmall);  // a first layer, 3 channels padded to 8
  CheckLow<uint16_t>(With(Up(Conv(1, 5, 7, 32, 24)), Activation::kSwish), kSmall);
  CheckLow<uint16_t>(Conv(2, 6, 7, 40, 8, 1), kSmall);
  CheckLow<uint16_t>(With(Conv(1, 13, 12, 32, 130), Activation::kNone, true), kLarge);
  CheckLow<float>(Down(Conv(2, 10, 6, 32, 32)), kSmall);
}

TEST("bf16 patch embedding: a 4x4 window of stride 4") {
  Layer l = Conv(1, 12, 8, 8, 24, 4);
  l.stride = 4;
  CheckLow<float>(l, kSmall);
}

TEST("a NaN reaches exactly the outputs whose window contains it") {
  const Layer l = Conv(1, 9, 7, 8, 16);
  const Data d(l, true);
  std::vector<uint16_t> low(d.x.size());
  for (size_t i = 0; i < low.size(); i++) low[i] = ToBf16(d.x[i]);
  low[(4 * 7 + 3) * 8 + 1] = 0x7fc0;
  const DeviceBuffer<uint16_t> x(low);
  std::unique_ptr<DeviceBuffer<uint16_t>> w(Packed<uint16_t>(l, d.w));
  DeviceBuffer<float> y(63 * 16);
  Gemm(Window(l, x.data()), {w->data(), 16, 72 + kPad, {}}, 1, {nullptr, false, Activation::kNone, nullptr},
       kSmall, ResultRows<float>{y.data(), 16, {}}, 16, nullptr);
  for (int p = 0; p < 63; p++) {
    const bool inside = std::abs(p / 7 - 4) <= 1 && std::abs(p % 7 - 3) <= 1;
    for (int n = 0; n < 16; n++) CHECK(std::isnan(y[p * 16 + n]) == inside);
  }
}

TEST("the truncating tensor core stays within the fp32 sum's own size") {
  simt::options().tensor_core = simt::TensorCore::kTruncate;
  CheckLow<uint16_t>(Linear(1, 16, 64, 32), kSmall);
}

TEST("images of one product, weights per image, bias by row") {
  // As attention uses it: y[image] = A[image] W[image]^T.
  constexpr int kImages = 3, kRows = 20, kColumns = 24, kDepth = 40;
  simt::Random random(5);
  std::vector<uint16_t> a(kImages * kRows * kDepth), w(kImages * kColumns * 64);
  for (auto& h : a) h = ToBf16(random.Normal());
  for (int i = 0; i < kImages * kColumns; i++) {
    for (int k = 0; k < 64; k++) w[i * 64 + k] = k < kDepth ? ToBf16(random.Normal()) : 0x7fc0;
  }
  const DeviceBuffer<uint16_t> da(a), dw(w);
  const DeviceBuffer<float> bias(random.Normals(kRows));
  DeviceBuffer<float> y(kImages * kRows * kColumns);
  Gemm(MatrixRows<uint16_t>{da.data(), kRows, kDepth, kDepth, {1, kRows * kDepth, 0}},
       {dw.data(), kColumns, 64, {1, kColumns * 64, 0}}, kImages,
       {bias.data(), true, Activation::kNone, nullptr}, kSmall,
       ResultRows<float>{y.data(), kColumns, {1, kRows * kColumns, 0}}, kColumns, nullptr);
  for (int i = 0; i < kImages * kRows; i++) {
    for (int n = 0; n < kColumns; n++) {
      double sum = bias[i % kRows];
      for (int k = 0; k < kDepth; k++) {
        sum += static_cast<double>(FromBf16(a[i * kDepth + k])) *
               FromBf16(w[(i / kRows * kColumns + n) * 64 + k]);
      }
      CHECK(std::fabs(y[i * kColumns + n] - sum) < 1e-4);
    }
  }
}

TEST("fp32 linear and convolution: the bits of a scalar chain") {
  constexpr int kFew = 1000, kOne = 1;  // multiprocessors: small tile, large tile
  simt::ForEachOrder([] {
    CheckFloat(With(Linear(1, 65, 40, 70), Activation::kNone, true), kFew);
    CheckFloat(Conv(2, 7, 5, 12, 24), kFew);
  });
  CheckFloat(With(Linear(1, 150, 84, 136), Activation::kNone, true), kOne);
  CheckFloat(Linear(2, 30, 8, 3), kFew);
  CheckFloat(Conv(1, 13, 11, 4, 40), kOne);
  CheckFloat(Down(Conv(1, 9, 8, 20, 33)), kFew);
  CheckFloat(With(Up(Conv(1, 5, 4, 16, 16)), Activation::kNone, true), kFew);
  CheckFloat(With(Conv(2, 5, 5, 36, 8, 1), Activation::kNone, true, false), kFew);
}

TEST("fp32 linear: every activation") {
  for (int a = 0; a < 6; a++)
    CheckFloat(With(Linear(1, 40, 32, 24), static_cast<Activation>(a), a % 2 == 0), 1000);
}
