#include "codebook/tile_scan.h"

#include <algorithm>
#include <cmath>

#include "codebook/cache_ahead.h"

namespace tokenflow {

void QueryChunk::Resize(int64_t n) {
  size_ = n;
  rows_->scored.resize(n);
  rows_->seen.resize(n * dim_);
  rows_->y.resize(n * dim_);
}

void QueryChunk::Prepare(const float* x, int64_t n) {
  Resize(n);
  Prepare(x, 0, n);
}

void QueryChunk::Prepare(const float* x, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    float* y = rows_->y.data() + i * dim_;
    rows_->scored[i] = kernels_.prepare(x + i * dim_, spans_.data(), static_cast<int>(spans_.size()),
                                        rows_->seen.data() + i * dim_, y);
    if (!rows_->scored[i]) std::fill(y, y + dim_, 0.0f);  // kept harmless: its result is thrown away
  }
}

void QueryChunk::Select(const QueryChunk& from, const int32_t* rows, int64_t n) {
  Resize(n);
  for (int64_t i = 0; i < size_; i++) {
    rows_->scored[i] = from.scored(rows[i]);
    std::copy_n(from.seen(rows[i]), dim_, rows_->seen.data() + i * dim_);
    std::copy_n(from.y(rows[i]), dim_, rows_->y.data() + i * dim_);
  }
}

void QueryChunk::Transpose() {
  rows_->tiles.resize(size_ * dim_);
  for (int64_t i = 0; i < size_; i += kernels_.rows) {
    const int64_t rows = std::min<int64_t>(kernels_.rows, size_ - i);
    float* tile = rows_->tiles.data() + i * dim_;
    for (int64_t r = 0; r < rows; r++) {
      for (int k = 0; k < dim_; k++) tile[k * rows + r] = y(i + r)[k];
    }
  }
}

void TileScan::Run(const QueryChunk& queries, int64_t begin, int64_t end, Candidate* best,
                   const CancelFlag& cancelled) {
  const int64_t n = queries.size();
  if (n == 0) return;
  if (k_ == 1) {
    lanes_->resize(n);
    LaneState empty{};
    std::fill(empty.best, empty.best + 16, INFINITY);
    std::fill(lanes_->begin(), lanes_->end(), empty);
  } else {
    tops_->resize(n);
    for (TopState& top : *tops_) StartTop(&top, k_);
  }
  const int64_t panel_floats = int64_t{kPanelCodes} * view_.dim;
  const int64_t tiles = (n + kernels_.rows - 1) / kernels_.rows;
  for (int64_t block = begin; block < end; block += block_panels_) {
    if (cancelled.load(std::memory_order_relaxed)) break;
    const int64_t block_end = std::min(end, block + block_panels_);
    const int64_t next_end = std::min(end, block_end + block_panels_);
    CacheAhead next(view_.codes + block_end * panel_floats,
                    (next_end - block_end) * panel_floats * sizeof(float), tiles);
    for (int64_t i = 0; i < n; i += kernels_.rows) {
      const int64_t rows = std::min<int64_t>(kernels_.rows, n - i);
      next.Step();
      if (k_ == 1) {
        kernels_.fold[rows](view_, block, block_end, queries.tile(i), lanes_->data() + i);
      } else {
        kernels_.fold_top[rows](view_, block, block_end, queries.tile(i), tops_->data() + i);
      }
    }
  }
  constexpr int64_t kAhead = 12;
  for (int64_t i = 0; i < n; i++) {
    if (k_ == 1) {
      if (i + kAhead < n) kernels_.approach(rows_, (*lanes_)[i + kAhead]);
      best[i] = kernels_.resolve(rows_, queries.y(i), (*lanes_)[i]);
    } else {
      FinishTop(&(*tops_)[i], best + i * k_);
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
