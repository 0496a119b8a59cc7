// k-means by Lloyd's iterations, exact: every row goes to its nearest code by the definition of codebook/score.h,
// then every code moves to the mean of its rows (cosine: rows and codes are unit vectors, and the mean is made
// one again: spherical k-means).
//
// A code that no row chose splits the code whose rows have the largest summed distance: it moves onto the
// farthest of these rows (equal ones: the lowest). Several empty codes split as many different codes.
//
// Everything that is random comes in from outside, so that the same numbers give the same codes; neither the
// number of threads nor the instruction set changes a bit.
#pragma once
#include <cstdint>
#include <vector>

#include "codebook/score.h"
#include "runtime/queue.h"

namespace tokenflow {

class KMeans {
 public:
  struct Step {
    double objective;  // sum of the distances of the rows from the codes before this step
    int64_t moved;     // rows whose nearest code is another than in the step before
    int64_t empty;     // codes that no row chose
    int64_t split;     // of these, how many split another; fewer where there is nothing to split
  };

  // Copies the rows.
  KMeans(const float* x,  // [N][d]
         int64_t n, int dim, Metric metric);

  // Comes first. Throws Error when a row is not finite.
  void Prepare();

  // Adds a code: this row.
  void AddRow(int64_t row);

  // Adds a code: a row drawn with probability proportional to its squared distance from the codes so far
  // (Arthur and Vassilvitskii, "k-means++", SODA 2007), by a number from [0, 1). One pass over the rows.
  void AddFar(double uniform);

  // Continues from these codes instead.
  void SetCodes(const float* codes, int64_t count);  // [count][d]

  // Once `cancelled` is set the codes stay as they are and the result is unspecified.
  Step Iterate(const CancelFlag& cancelled);

  int64_t count() const { return static_cast<int64_t>(codes_.size()) / dim_; }
  const std::vector<float>& codes() const { return codes_; }  // [count][d]

 private:
  int64_t n_;
  int dim_;
  Metric metric_;
  std::vector<float> x_;
  std::vector<float> codes_;
  std::vector<float> nearest_;    // [N]: squared distance from the codes AddFar has seen
  int64_t seen_ = 0;              // how many those are
  std::vector<int32_t> indices_;  // [N], of the last step
  std::vector<float> distances_;  // [N], likewise
};

}  // namespace tokenflow
