#include "image/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tokenflow {

namespace {

constexpr int kFractionBits =
    32 - 8 - 2;  // an 8-bit sample times weights that sum to 1, with overshoot, fits
constexpr int32_t kHalf = 1 << (kFractionBits - 1);

double Support(Filter filter) {
  return filter == Filter::kBox ? 0.5 : 2.0;
}

// The order of the operations is part of the definition: the last bit of a weight depends on it.
double Weight(Filter filter, double x) {
  if (filter == Filter::kBox) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  constexpr double a = -0.5;  // Catmull-Rom
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

inline uint8_t Clip(int32_t sum) {
  const int32_t value = sum >> kFractionBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// One row along x.
void ResampleRow(const Axis& axis, const uint8_t* in, uint8_t* out) {
  const int64_t n = axis.size();
  if (axis.kind() == Axis::Kind::kCopy) {
    std::memcpy(out, in + 3 * axis.taps(0).first, static_cast<size_t>(3 * n));
    return;
  }
  if (axis.kind() == Axis::Kind::kHalve) {
    in += 3 * axis.taps(0).first;
    for (int64_t i = 0; i < n; i++) {
      for (int c = 0; c < 3; c++) {
        out[3 * i + c] = static_cast<uint8_t>((in[6 * i + c] + in[6 * i + 3 + c] + 1) >> 1);
      }
    }
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    const Axis::Taps taps = axis.taps(i);
    const uint8_t* sample = in + 3 * taps.first;
    int32_t red = taps.bias, green = taps.bias, blue = taps.bias;
    for (int t = 0; t < taps.count; t++) {
      red += sample[3 * t] * taps.weights[t];
      green += sample[3 * t + 1] * taps.weights[t];
      blue += sample[3 * t + 2] * taps.weights[t];
    }
    out[3 * i] = Clip(red);
    out[3 * i + 1] = Clip(green);
    out[3 * i + 2] = Clip(blue);
  }
}

// Several rows into one, along y. A block of sums stays in registers and first-level cache.
void CombineRows(const Axis::Taps& taps, const uint8_t* const* rows,  // [taps.count][n]
                 int64_t n, uint8_t* out) {
  constexpr int64_t kBlock = 256;
  int32_t sums[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    std::fill(sums, sums + count, taps.bias);
    for (int t = 0; t < taps.count; t++) {
      const uint8_t* row = rows[t] + begin;
      const int32_t weight = taps.weights[t];
      for (int64_t i = 0; i < count; i++) sums[i] += row[i] * weight;
    }
    for (int64_t i = 0; i < count; i++) out[begin + i] = Clip(sums[i]);
  }
}

void HalveRows(const uint8_t* a, const uint8_t* b, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<uint8_t>((a[i] + b[i] + 1) >> 1);
}

}  // namespace

Axis::Axis(Filter filter, int64_t in, int64_t out, Span window)
    : window_(window.size()), first_(window_), count_(window_), skip_(window_, 0), bias_(window_, kHalf) {
  kind_ = in == out ? Kind::kCopy : filter == Filter::kBox && in == 2 * out ? Kind::kHalve : Kind::kGeneral;
  if (kind_ == Kind::kCopy) {  // every filter is 1 at 0 and 0 at the other integers
    stride_ = 1;
    for (int64_t i = 0; i < window_; i++) first_[i] = window.begin + i;
    count_.assign(static_cast<size_t>(window_), 1);
    weights_.assign(static_cast<size_t>(window_), 1 << kFractionBits);
    return;
  }
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double filter_scale = std::max(scale, 1.0);
  const double support = Support(filter) * filter_scale;
  stride_ = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  weights_.assign(static_cast<size_t>(window_ * stride_), 0);

  std::vector<double> raw(static_cast<size_t>(stride_));
  for (int64_t i = 0; i < window_; i++) {
    const double center = (static_cast<double>(window.begin + i) + 0.5) * scale;
    const int64_t begin = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), in);
    double total = 0;
    for (int64_t t = 0; t < end - begin; t++) {
      raw[t] = Weight(filter, (static_cast<double>(t + begin) - center + 0.5) * (1.0 / filter_scale));
      total += raw[t];
    }
    first_[i] = begin;
    count_[i] = static_cast<int32_t>(end - begin);
    for (int64_t t = 0; t < end - begin; t++) {
      const double weight = (total != 0 ? raw[t] / total : raw[t]) * (1 << kFractionBits);
      weights_[i * stride_ + t] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
}

void Axis::Restrict(Span present, uint8_t fill) {
  for (int64_t i = 0; i < window_; i++) {
    int32_t* weights = weights_.data() + i * stride_ + skip_[i];
    const int64_t begin = std::clamp(first_[i], present.begin, present.end);
    const int64_t end = std::clamp(first_[i] + count_[i], begin, present.end);
    for (int64_t t = 0; t < count_[i]; t++) {
      const int64_t sample = first_[i] + t;
      if (sample >= begin && sample < end) continue;
      bias_[i] += fill * weights[t];
      kind_ = Kind::kGeneral;
    }
    skip_[i] += static_cast<int32_t>(std::clamp<int64_t>(begin - first_[i], 0, count_[i]));
    count_[i] = static_cast<int32_t>(end - begin);
    first_[i] = begin - present.begin;
  }
}

Span Axis::support() const {
  // Both ends of the taps never move backwards along the axis.
  return {first_.front(), first_.back() + count_.back()};
}

int Axis::MaxTaps() const {
  return *std::max_element(count_.begin(), count_.end());
}

void Resize(const RowReader& rows, int64_t width, const Axis& x, const Axis& y, uint8_t* out) {
  const int64_t row_size = 3 * x.size();
  // A ring of rows already resampled along x: as many as one output row can need.
  const int64_t capacity = std::max(y.MaxTaps(), 1);
  std::vector<uint8_t> ring(static_cast<size_t>(capacity * row_size));
  std::vector<uint8_t> scratch(static_cast<size_t>(3 * width));
  std::vector<const uint8_t*> needed(static_cast<size_t>(capacity));
  int64_t next = y.support().begin;
  for (int64_t i = 0; i < y.size(); i++) {
    const Axis::Taps taps = y.taps(i);
    for (; next < taps.first + taps.count; next++) {
      ResampleRow(x, rows(next, scratch.data()), ring.data() + next % capacity * row_size);
    }
    for (int t = 0; t < taps.count; t++) needed[t] = ring.data() + (taps.first + t) % capacity * row_size;
    uint8_t* target = out + i * row_size;
    switch (y.kind()) {
      case Axis::Kind::kCopy:
        std::memcpy(target, needed[0], static_cast<size_t>(row_size));
        break;
      case Axis::Kind::kHalve:
        HalveRows(needed[0], needed[1], row_size, target);
        break;
      case Axis::Kind::kGeneral:
        CombineRows(taps, needed.data(), row_size, target);
        break;
    }
  }
}

}  // namespace tokenflow
