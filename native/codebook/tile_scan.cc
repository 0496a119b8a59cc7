#include "codebook/tile_scan.h"

#include <algorithm>
#include <cmath>

namespace tokenflow {

void QueryChunk::Prepare(const float* x, int64_t n) {
  size_ = n;
  scored_.resize(n);
  seen_.resize(n * dim_);
  y_.resize(n * dim_);
  for (int64_t i = 0; i < n; i++) {
    float* y = y_.data() + i * dim_;
    scored_[i] = kernels_.prepare(x + i * dim_, spans_.data(), static_cast<int>(spans_.size()),
                                  seen_.data() + i * dim_, y);
    if (!scored_[i]) std::fill(y, y + dim_, 0.0f);  // kept harmless: its result is thrown away
  }
  Transpose();
}

void QueryChunk::Select(const QueryChunk& from, const std::vector<int32_t>& rows) {
  size_ = static_cast<int64_t>(rows.size());
  scored_.resize(size_);
  seen_.resize(size_ * dim_);
  y_.resize(size_ * dim_);
  for (int64_t i = 0; i < size_; i++) {
    scored_[i] = from.scored_[rows[i]];
    std::copy_n(from.seen(rows[i]), dim_, seen_.data() + i * dim_);
    std::copy_n(from.y(rows[i]), dim_, y_.data() + i * dim_);
  }
  Transpose();
}

void QueryChunk::Transpose() {
  tiles_.resize(size_ * dim_);
  for (int64_t i = 0; i < size_; i += kernels_.rows) {
    const int64_t rows = std::min<int64_t>(kernels_.rows, size_ - i);
    float* tile = tiles_.data() + i * dim_;
    for (int64_t r = 0; r < rows; r++) {
      for (int k = 0; k < dim_; k++) tile[k * rows + r] = y(i + r)[k];
    }
  }
}

void TileScan::Run(const QueryChunk& queries, int64_t begin, int64_t end, Candidate* best,
                   const CancelFlag& cancelled) {
  const int64_t n = queries.size();
  if (k_ == 1) {
    lanes_.resize(n);
    for (LaneState& state : lanes_) std::fill(state.best, state.best + 16, INFINITY);
  } else {
    tops_.resize(n);
    for (TopState& top : tops_) StartTop(&top, k_);
  }
  for (int64_t block = begin; block < end; block += block_panels_) {
    if (cancelled.load(std::memory_order_relaxed)) break;
    const int64_t block_end = std::min(end, block + block_panels_);
    for (int64_t i = 0; i < n; i += kernels_.rows) {
      const int64_t rows = std::min<int64_t>(kernels_.rows, n - i);
      if (k_ == 1) {
        kernels_.fold[rows](view_, block, block_end, queries.tile(i), lanes_.data() + i);
      } else {
        kernels_.fold_top[rows](view_, block, block_end, queries.tile(i), tops_.data() + i);
      }
    }
  }
  for (int64_t i = 0; i < n; i++) {
    if (k_ == 1) {
      best[i] = kernels_.resolve(view_, queries.y(i), lanes_[i]);
    } else {
      FinishTop(&tops_[i], best + i * k_);
    }
  }
}

const Candidate* MergeShares(std::vector<std::vector<Candidate>>* shares, int64_t n, int k) {
  std::vector<Candidate> row;
  std::vector<Candidate>& merged = shares->front();
  for (int64_t i = 0; i < n; i++) {
    row.clear();
    for (const std::vector<Candidate>& share : *shares) {
      for (int rank = 0; rank < k; rank++) {
        const Candidate& candidate = share[i * k + rank];
        if (candidate.index != kNoCode) row.push_back(candidate);
      }
    }
    std::sort(row.begin(), row.end(), [](const Candidate& a, const Candidate& b) {
      return Before(a.score, a.index, b.score, b.index);
    });
    for (int rank = 0; rank < k; rank++) {
      merged[i * k + rank] = rank < static_cast<int>(row.size()) ? row[rank] : Candidate{INFINITY, kNoCode};
    }
  }
  return merged.data();
}

}  // namespace tokenflow
