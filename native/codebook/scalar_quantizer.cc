#include "codebook/scalar_quantizer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kMostCodes = int64_t{1} << 53;
constexpr int kMostLevels = 1 << 24;  // whose values are whole numbers of float32
constexpr int64_t kGrain = 256;
constexpr double kEps = 1e-3;

void LowerTo(std::atomic<int64_t>* least, int64_t value) {
  int64_t seen = least->load();
  while (value < seen && !least->compare_exchange_weak(seen, value)) {
  }
}

}  // namespace

ScalarQuantizer::ScalarQuantizer(Rule rule, std::vector<int> levels, float scale)
    : rule_(rule), levels_(std::move(levels)), scale_(scale) {
  if (levels_.empty()) throw InvalidArgument("Expected at least one element with levels");
  const bool sign = rule_ == Rule::kSign;
  place_values_.resize(levels_.size());
  for (size_t i = 0; i < levels_.size(); i++) {
    const size_t digit = sign ? levels_.size() - 1 - i : i;  // from the least significant up
    const int64_t count = levels_[digit];
    if (count < 2 || count > kMostLevels || (sign && count != 2))
      throw InvalidArgument("Expected 2 to 16777216 levels but received " + std::to_string(count));
    if (codes_ > kMostCodes / count)
      throw InvalidArgument("Expected levels whose product is at most 2^53, so that indices stay exact");
    place_values_[digit] = codes_;
    codes_ *= count;
  }
  for (const int count : levels_) {
    const double half = (count - 1) * (1 + kEps) / 2, offset = count % 2 == 0 ? 0.5 : 0.0;
    half_.push_back(half);
    offset_.push_back(offset);
    shift_.push_back(rule_ == Rule::kClamp ? offset / half : std::atanh(offset / half));
  }
}

int64_t ScalarQuantizer::LevelOf(float z, int element) const {
  const int64_t count = levels_[element];
  double level = 0;
  switch (rule_) {
    case Rule::kSign:
      return z > 0 ? 1 : 0;
    case Rule::kSymmetric:
      level = std::floor((count - 1) * (std::tanh(double{z}) + 1) / 2 + 0.5);
      break;
    default: {
      const double moved = double{z} + shift_[element];
      const double bounded = rule_ == Rule::kClamp ? std::clamp(moved, -1.0, 1.0) : std::tanh(moved);
      level = std::nearbyint(bounded * half_[element] - offset_[element]) + static_cast<double>(count / 2);
    }
  }
  return std::clamp<int64_t>(static_cast<int64_t>(level), 0, count - 1);
}

float ScalarQuantizer::ValueOf(int64_t level, int element) const {
  const int64_t count = levels_[element];
  switch (rule_) {
    case Rule::kSign:
      return level == 1 ? scale_ : -scale_;
    case Rule::kSymmetric:
      return static_cast<float>(2 * level - (count - 1)) / static_cast<float>(count - 1);
    default:
      return static_cast<float>(level - count / 2) / static_cast<float>(count / 2);
  }
}

template <class Index>
void ScalarQuantizer::Encode(const float* x, int64_t n, Index* indices, float* quantized,
                             const CancelFlag& cancelled) const {
  std::atomic<int64_t> wrong{n};  // the first row that is not finite
  ParallelRanges(n, kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end && !cancelled.load(std::memory_order_relaxed); row++) {
      int64_t index = 0;
      for (int k = 0; k < dim(); k++) {
        const float z = x[row * dim() + k];
        if (!std::isfinite(z)) return LowerTo(&wrong, row);
        const int64_t level = LevelOf(z, k);
        index += level * place_values_[k];
        quantized[row * dim() + k] = ValueOf(level, k);
      }
      indices[row] = static_cast<Index>(index);
    }
  });
  if (wrong < n) {
    throw InvalidArgument("Expected finite vectors but row " + std::to_string(wrong.load()) +
                          " has NaN or infinity");
  }
}

template <class Index>
void ScalarQuantizer::Decode(const Index* indices, int64_t n, float* quantized,
                             const CancelFlag& cancelled) const {
  std::atomic<int64_t> wrong{n};
  ParallelRanges(n, kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end && !cancelled.load(std::memory_order_relaxed); row++) {
      const bool inside = indices[row] >= 0 && indices[row] < static_cast<double>(codes_);
      const int64_t index = inside ? static_cast<int64_t>(indices[row]) : -1;
      if (static_cast<Index>(index) != indices[row] || !inside) return LowerTo(&wrong, row);
      for (int k = 0; k < dim(); k++) {
        quantized[row * dim() + k] = ValueOf(index / place_values_[k] % levels_[k], k);
      }
    }
  });
  if (wrong < n) {
    throw InvalidArgument("Expected whole indices from 0 to " + std::to_string(codes_ - 1) +
                          " but received " + std::to_string(indices[wrong.load()]) + " at position " +
                          std::to_string(wrong.load()));
  }
}

template void ScalarQuantizer::Encode(const float*, int64_t, int32_t*, float*, const CancelFlag&) const;
template void ScalarQuantizer::Encode(const float*, int64_t, double*, float*, const CancelFlag&) const;
template void ScalarQuantizer::Decode(const int32_t*, int64_t, float*, const CancelFlag&) const;
template void ScalarQuantizer::Decode(const double*, int64_t, float*, const CancelFlag&) const;

}  // namespace tokenflow
