#include "codebook/kmeans_rows.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "codebook/code_sums.h"
#include "codebook/codebook.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

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
  std::vector<double> sums((n + kRowBlock - 1) / kRowBlock);
  ParallelRanges(n, kRowBlock, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) sums[i / kRowBlock] += values[i];
  });
  return sums;
}

class Rows : public PlacedRows {
 public:
  Rows(const float* x, int64_t n, int dim) : n_(n), dim_(dim), x_(x, x + n * dim) {}

  int64_t count() const override { return n_; }
  int dim() const override { return dim_; }

  void Prepare(bool normalize) override {
    const int64_t wrong = FirstNonFinite(x_.data(), n_, dim_);
    if (wrong < n_) throw NotFinite(wrong);
    if (normalize) NormalizeRows(x_.data(), n_, dim_);
  }

  std::vector<float> Row(int64_t row) const override {
    return std::vector<float>(x_.begin() + row * dim_, x_.begin() + (row + 1) * dim_);
  }

  std::vector<double> LowerNearest(const float* codes, int64_t count, bool first) override {
    if (first) nearest_.assign(n_, INFINITY);
    for (int64_t j = 0; j < count; j++) {
      ParallelRanges(n_, kRowBlock, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          nearest_[i] = std::min(nearest_[i], SquaredDistance(&x_[i * dim_], codes + j * dim_, dim_));
        }
      });
    }
    return BlockSums(nearest_);
  }

  std::vector<float> Nearest(int64_t begin, int64_t end) const override {
    return std::vector<float>(nearest_.begin() + begin, nearest_.begin() + end);
  }

  RowAssignment Assign(const float* codes, int64_t count, Metric metric,
                       const CancelFlag& cancelled) override {
    const Codebook codebook({{codes, dim_, false}}, count, metric);
    std::vector<int32_t> found(n_);
    distances_.resize(n_);
    codebook.Nearest(x_.data(), n_, 1, nullptr, {found.data(), distances_.data(), nullptr}, cancelled);
    RowAssignment assignment;
    if (cancelled.load(std::memory_order_relaxed)) return assignment;
    const auto missing = std::find(found.begin(), found.end(), kNoCode);
    if (missing != found.end()) {
      assignment.first_missing = missing - found.begin();
      return assignment;
    }
    for (size_t i = 0; i < indices_.size(); i++) assignment.moved += found[i] != indices_[i];
    indices_ = std::move(found);
    assignment.distances = BlockSums(distances_);
    return assignment;
  }

  RowSums Sums(int64_t codes) override {
    by_code_ = std::make_unique<RowsByCode>(indices_.data(), n_, codes);
    RowSums sums{std::vector<int64_t>(codes), std::vector<double>(codes * dim_), std::vector<double>(codes)};
    ForEachCode(*by_code_, [&](int64_t code) {
      sums.counts[code] = by_code_->count(code);
      SumRows(*by_code_, code, x_.data(), dim_, sums.sums.data() + code * dim_);
      SumRows(*by_code_, code, distances_.data(), 1, &sums.distances[code]);
    });
    return sums;
  }

  std::vector<int64_t> Farthest(const std::vector<int32_t>& codes) const override {
    std::vector<int64_t> found;
    for (const int32_t code : codes) {
      const auto first = by_code_->rows.begin() + by_code_->begin[code];
      const auto farthest = std::max_element(first, first + by_code_->count(code), [&](int64_t a, int64_t b) {
        return distances_[a] < distances_[b];  // max_element returns the first of equal ones
      });
      found.push_back(*farthest);
    }
    return found;
  }

 private:
  const int64_t n_;
  const int dim_;
  std::vector<float> x_;
  std::vector<float> nearest_;    // [n]: squared distance from the codes LowerNearest has seen
  std::vector<int32_t> indices_;  // [n], of the last assignment
  std::vector<float> distances_;  // [n], likewise
  std::unique_ptr<RowsByCode> by_code_;
};

}  // namespace

std::unique_ptr<PlacedRows> HostRows(const float* x, int64_t n, int dim) {
  return std::make_unique<Rows>(x, n, dim);
}

}  // namespace tokenflow
