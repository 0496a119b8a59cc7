#include "codebook/kmeans.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "codebook/code_sums.h"
#include "codebook/kmeans_rows.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kGrain = 256;  // codes of a parallel loop

}  // namespace

void KMeans::AddRow(int64_t row) {
  const std::vector<float> values = rows_->Row(row);
  codes_.insert(codes_.end(), values.begin(), values.end());
}

void KMeans::SetCodes(const float* codes, int64_t count) {
  codes_.assign(codes, codes + count * rows_->dim());
  if (metric_ == Metric::kCosine) NormalizeRows(codes_.data(), count, rows_->dim());
}

void KMeans::AddFar(double uniform) {
  const int64_t n = rows_->count();
  const auto any = [&] { AddRow(std::min(n - 1, static_cast<int64_t>(uniform * static_cast<double>(n)))); };
  if (codes_.empty()) return any();
  const std::vector<double> blocks =
      rows_->LowerNearest(&codes_[seen_ * rows_->dim()], count() - seen_, seen_ == 0);
  seen_ = count();
  const double total = std::accumulate(blocks.begin(), blocks.end(), 0.0);
  // Fewer distinct rows than codes: any row will do.
  if (!(total > 0)) return any();
  double left = uniform * total;
  size_t block = 0;
  while (block + 1 < blocks.size() && left >= blocks[block]) left -= blocks[block++];
  const int64_t begin = static_cast<int64_t>(block) * kRowBlock;
  const std::vector<float> nearest = rows_->Nearest(begin, std::min(n, begin + kRowBlock));
  int64_t chosen = -1;
  for (size_t i = 0; i < nearest.size(); i++) {
    if (!(nearest[i] > 0)) continue;
    chosen = begin + static_cast<int64_t>(i);
    left -= nearest[i];
    if (left < 0) break;
  }
  // Rounding may run past the last row of weight, into a block without any: then the farthest row.
  if (chosen < 0) {
    const std::vector<float> all = rows_->Nearest(0, n);
    chosen = std::max_element(all.begin(), all.end()) - all.begin();
  }
  AddRow(chosen);
}

KMeans::Step KMeans::Iterate(const CancelFlag& cancelled) {
  const int64_t k = count(), n = rows_->count();
  const RowAssignment assignment = rows_->Assign(codes_.data(), k, metric_, cancelled);
  if (cancelled.load(std::memory_order_relaxed)) return {};
  if (assignment.first_missing >= 0) {
    throw InvalidArgument("Expected vectors small enough to square but row " +
                          std::to_string(assignment.first_missing) + " overflows float32; scale them down");
  }
  Step step{};
  step.moved = assigned_ ? assignment.moved : n;
  assigned_ = true;
  step.objective = std::accumulate(assignment.distances.begin(), assignment.distances.end(), 0.0);

  const RowSums sums = rows_->Sums(k);
  MoveCodes(sums);
  std::vector<int32_t> empty, donors;
  for (int64_t code = 0; code < k; code++) {
    if (sums.counts[code] == 0) empty.push_back(static_cast<int32_t>(code));
    if (sums.distances[code] > 0 && sums.counts[code] > 1) donors.push_back(static_cast<int32_t>(code));
  }
  step.empty = static_cast<int64_t>(empty.size());
  const size_t splits = std::min(empty.size(), donors.size());
  step.split = static_cast<int64_t>(splits);
  std::partial_sort(donors.begin(), donors.begin() + splits, donors.end(), [&](int32_t a, int32_t b) {
    return sums.distances[a] > sums.distances[b] || (sums.distances[a] == sums.distances[b] && a < b);
  });
  donors.resize(splits);
  const std::vector<int64_t> farthest = rows_->Farthest(donors);
  for (size_t i = 0; i < splits; i++) {
    const std::vector<float> row = rows_->Row(farthest[i]);
    std::copy(row.begin(), row.end(), codes_.begin() + int64_t{empty[i]} * rows_->dim());
  }
  return step;
}

void KMeans::MoveCodes(const RowSums& sums) {
  const int dim = rows_->dim();
  ParallelRanges(count(), kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t code = begin; code < end; code++) {
      if (sums.counts[code] == 0) continue;
      const double* sum = sums.sums.data() + code * dim;
      double size = static_cast<double>(sums.counts[code]);
      if (metric_ == Metric::kCosine) {
        size = std::sqrt(std::inner_product(sum, sum + dim, sum, 0.0));
        if (!(size > 0)) continue;  // opposite rows: there is no direction to turn to
      }
      for (int e = 0; e < dim; e++) codes_[code * dim + e] = static_cast<float>(sum[e] / size);
    }
  });
}

}  // namespace tokenflow
