// The plain lookup of one thread: prepared queries against a range of panels.
#pragma once
#include <cstdint>
#include <vector>

#include "codebook/aligned.h"
#include "codebook/kept.h"
#include "cpu/lookup_kernels.h"
#include "runtime/queue.h"

namespace tokenflow {

// Queries as a scan needs them.
class QueryChunk {
 public:
  QueryChunk(const LookupKernels& kernels, const std::vector<PartSpan>& spans, int dim)
      : kernels_(kernels), spans_(spans), dim_(dim) {}

  void Prepare(const float* x, int64_t n);  // [n][dim]
  // The same in parts, which may be made on several threads.
  void Resize(int64_t n);
  void Prepare(const float* x, int64_t begin, int64_t end);
  void Transpose();  // makes tiles, which a plain scan needs
  // Some rows of another chunk, as they are there.
  void Select(const QueryChunk& from, const int32_t* rows, int64_t n);

  int64_t size() const { return size_; }
  bool scored(int64_t i) const { return rows_->scored[i] != 0; }                // false: no nearest code
  const float* seen(int64_t i) const { return rows_->seen.data() + i * dim_; }  // [dim] as compared
  const float* y(int64_t i) const { return rows_->y.data() + i * dim_; }        // [dim] of the definition
  // Rows [i, i + rows) transposed, rows being what is left up to a full tile; i a multiple of the kernel's
  // rows.
  const float* tile(int64_t i) const { return rows_->tiles.data() + i * dim_; }  // [dim][rows]

 private:
  struct Rows {
    std::vector<uint8_t> scored;
    AlignedVector<float> seen, y, tiles;
  };

  const LookupKernels& kernels_;
  const std::vector<PartSpan>& spans_;
  int dim_;
  int64_t size_ = 0;
  Kept<Rows> rows_;
};

class TileScan {
 public:
  TileScan(const LookupKernels& kernels, const PanelView& view, const RowView& rows, int k,
           int64_t block_panels)
      : kernels_(kernels), view_(view), rows_(rows), k_(k), block_panels_(block_panels) {}

  // The k best codes of panels [begin, end) for every query, in order.
  void Run(const QueryChunk& queries, int64_t begin, int64_t end, Candidate* best,  // [queries][k]
           const CancelFlag& cancelled);

 private:
  const LookupKernels& kernels_;
  PanelView view_;
  RowView rows_;
  int k_;
  int64_t block_panels_;
  Kept<AlignedVector<LaneState>> lanes_;
  Kept<AlignedVector<TopState>> tops_;
};

// The k best of several shares of the codes, each [n][k]; merged into the first, which is returned.
const Candidate* MergeShares(std::vector<std::vector<Candidate>>* shares, int64_t n, int k);

}  // namespace tokenflow
