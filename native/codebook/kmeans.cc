#include "codebook/kmeans.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "codebook/code_sums.h"
#include "codebook/codebook.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

// Rows whose sum is taken at once. Sums of blocks are added in order, whoever computed them.
constexpr int64_t kBlock = 4096;

// The squared distance of two rows, in an order of its own that a compiler may vectorise.
float SquaredDistance(const float* a, const float* b, int dim) {
  constexpr int kLanes = 8;
  float lanes[kLanes] = {};
  int k = 0;
  for (; k + kLanes <= dim; k += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      const float difference = a[k + lane] - b[k + lane];
      lanes[lane] += difference * difference;
    }
  }
  float rest = 0.0f;
  for (; k < dim; k++) rest += (a[k] - b[k]) * (a[k] - b[k]);
  return (((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))) +
         rest;
}

// The sum of values, block by block.
std::vector<double> BlockSums(const std::vector<float>& values) {
  const int64_t n = static_cast<int64_t>(values.size());
  std::vector<double> sums((n + kBlock - 1) / kBlock);
  ParallelRanges(n, kBlock, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) sums[i / kBlock] += values[i];
  });
  return sums;
}

}  // namespace

KMeans::KMeans(const float* x, int64_t n, int dim, Metric metric)
    : n_(n), dim_(dim), metric_(metric), x_(x, x + n * dim) {}

void KMeans::Prepare() {
  const int64_t wrong = FirstNonFinite(x_.data(), n_, dim_);
  if (wrong < n_) {
    throw InvalidArgument("Expected finite vectors but row " + std::to_string(wrong) +
                          " has NaN or infinity");
  }
  if (metric_ == Metric::kCosine) NormalizeRows(x_.data(), n_, dim_);
}

void KMeans::AddRow(int64_t row) {
  codes_.insert(codes_.end(), x_.begin() + row * dim_, x_.begin() + (row + 1) * dim_);
}

void KMeans::SetCodes(const float* codes, int64_t count) {
  codes_.assign(codes, codes + count * dim_);
  if (metric_ == Metric::kCosine) NormalizeRows(codes_.data(), count, dim_);
}

void KMeans::AddFar(double uniform) {
  if (seen_ == 0) nearest_.assign(n_, INFINITY);
  for (; seen_ < count(); seen_++) {
    const float* code = &codes_[seen_ * dim_];
    ParallelRanges(n_, kBlock, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        nearest_[i] = std::min(nearest_[i], SquaredDistance(&x_[i * dim_], code, dim_));
      }
    });
  }
  if (codes_.empty()) return AddRow(std::min(n_ - 1, static_cast<int64_t>(uniform * n_)));
  const std::vector<double> blocks = BlockSums(nearest_);
  const double total = std::accumulate(blocks.begin(), blocks.end(), 0.0);
  // Fewer distinct rows than codes: any row will do.
  if (!(total > 0)) return AddRow(std::min(n_ - 1, static_cast<int64_t>(uniform * n_)));
  double left = uniform * total;
  size_t block = 0;
  while (block + 1 < blocks.size() && left >= blocks[block]) left -= blocks[block++];
  int64_t chosen = -1;
  for (int64_t i = block * kBlock; i < std::min<int64_t>(n_, (block + 1) * kBlock); i++) {
    if (!(nearest_[i] > 0)) continue;
    chosen = i;
    left -= nearest_[i];
    if (left < 0) break;
  }
  // Rounding may run past the last row of weight, into a block without any: then the farthest row.
  if (chosen < 0) chosen = std::max_element(nearest_.begin(), nearest_.end()) - nearest_.begin();
  AddRow(chosen);
}

KMeans::Step KMeans::Iterate(const CancelFlag& cancelled) {
  const int64_t k = count();
  const Codebook codebook({{codes_.data(), dim_, false}}, k, metric_);
  std::vector<int32_t> found(n_);
  distances_.resize(n_);
  codebook.Nearest(x_.data(), n_, 1, nullptr, {found.data(), distances_.data(), nullptr}, cancelled);
  if (cancelled.load(std::memory_order_relaxed)) return {};
  const auto missing = std::find(found.begin(), found.end(), kNoCode);
  if (missing != found.end()) {
    throw InvalidArgument("Expected vectors small enough to square but row " +
                          std::to_string(missing - found.begin()) + " overflows float32; scale them down");
  }
  Step step{};
  step.moved = n_;
  if (!indices_.empty()) {
    step.moved = 0;
    for (int64_t i = 0; i < n_; i++) step.moved += found[i] != indices_[i];
  }
  indices_ = std::move(found);
  const std::vector<double> blocks = BlockSums(distances_);
  step.objective = std::accumulate(blocks.begin(), blocks.end(), 0.0);

  const RowsByCode by_code(indices_.data(), n_, k);
  std::vector<double> errors(k);  // summed distance of each code's rows
  ForEachCode(by_code, [&](int64_t code) {
    if (by_code.count(code) == 0) return;
    std::vector<double> sum(dim_);
    SumRows(by_code, code, x_.data(), dim_, sum.data());
    for (int64_t i = by_code.begin[code]; i < by_code.begin[code + 1]; i++) {
      errors[code] += distances_[by_code.rows[i]];
    }
    double size = static_cast<double>(by_code.count(code));
    if (metric_ == Metric::kCosine) {
      size = std::sqrt(std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0));
      if (!(size > 0)) return;  // opposite rows: there is no direction to turn to
    }
    for (int e = 0; e < dim_; e++) codes_[code * dim_ + e] = static_cast<float>(sum[e] / size);
  });

  std::vector<int64_t> empty, donors;
  for (int64_t code = 0; code < k; code++) {
    if (by_code.count(code) == 0) empty.push_back(code);
    if (errors[code] > 0 && by_code.count(code) > 1) donors.push_back(code);
  }
  step.empty = static_cast<int64_t>(empty.size());
  const size_t splits = std::min(empty.size(), donors.size());
  step.split = static_cast<int64_t>(splits);
  std::partial_sort(donors.begin(), donors.begin() + splits, donors.end(), [&](int64_t a, int64_t b) {
    return errors[a] > errors[b] || (errors[a] == errors[b] && a < b);
  });
  for (size_t i = 0; i < splits; i++) {
    const auto first = by_code.rows.begin() + by_code.begin[donors[i]];
    const auto farthest =
        std::max_element(first, first + by_code.count(donors[i]), [&](int64_t a, int64_t b) {
          return distances_[a] < distances_[b];  // max_element returns the first of equal ones
        });
    std::copy_n(&x_[*farthest * dim_], dim_, &codes_[empty[i] * dim_]);
  }
  return step;
}

}  // namespace tokenflow
