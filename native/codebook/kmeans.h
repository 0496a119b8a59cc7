// k-means by Lloyd's iterations, exact: every row goes to its nearest code by the definition of codebook/score.h,
// then every code moves to the mean of its rows (cosine: rows and codes are unit vectors, and the mean is made
// one again: spherical k-means).
//
// A code that no row chose splits the code whose rows have the largest summed distance: it moves onto the
// farthest of these rows (equal ones: the lowest). Several empty codes split as many different codes.
//
// Everything that is random comes in from outside, so that the same numbers give the same codes; neither the
// device, nor the number of threads, nor the instruction set changes a bit.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/codebook_backend.h"

namespace tokenflow {

class KMeans {
 public:
  struct Step {
    double objective;  // sum of the distances of the rows from the codes before this step
    int64_t moved;     // rows whose nearest code is another than in the step before
    int64_t empty;     // codes that no row chose
    int64_t split;     // of these, how many split another; fewer where there is nothing to split
  };

  // `rows` are the rows where the passes over them run.
  KMeans(std::shared_ptr<PlacedRows> rows, Metric metric) : rows_(std::move(rows)), metric_(metric) {}

  // Comes first. Throws Error when a row is not finite.
  void Prepare() { rows_->Prepare(metric_ == Metric::kCosine); }

  // Adds a code: this row.
  void AddRow(int64_t row);

  // Adds a code: a row drawn with probability proportional to its squared distance from the codes so far
  // (Arthur and Vassilvitskii, "k-means++", SODA 2007), by a number from [0, 1). One pass over the rows.
  void AddFar(double uniform);

  // Continues from these codes instead.
  void SetCodes(const float* codes, int64_t count);  // [count][d]

  // Once `cancelled` is set the codes stay as they are and the result is unspecified.
  Step Iterate(const CancelFlag& cancelled);

  int64_t count() const { return static_cast<int64_t>(codes_.size()) / rows_->dim(); }
  const std::vector<float>& codes() const { return codes_; }  // [count][d]

 private:
  void MoveCodes(const RowSums& sums);

  const std::shared_ptr<PlacedRows> rows_;
  const Metric metric_;
  std::vector<float> codes_;
  int64_t seen_ = 0;  // codes that the rows' nearest distances are of
  bool assigned_ = false;
};

}  // namespace tokenflow
