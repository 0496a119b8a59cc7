// The product quantiser: a row is cut into groups of elements, and each group is quantised by a codebook of its
// own (Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011). Also known as
// grouped quantisation.
//
// A distance of a query from a quantised row is asymmetric: the query stays as it is. It is the sum over the
// groups of the distance of the query's group from the row's code, which a table per query holds:
// table[offset of group g + j] = distance of the query's group g from code j, as Codebook::Nearest reports it.
// Sums are float32 chains over the groups in ascending order.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "codebook/codebook.h"

namespace tokenflow {

class ProductQuantizer {
 public:
  // At least one group, each a codebook of one part; all of one metric.
  explicit ProductQuantizer(std::vector<std::shared_ptr<const Codebook>> groups);

  int dim() const { return dim_; }
  int groups() const { return static_cast<int>(groups_.size()); }
  int64_t table_size() const { return offsets_.back(); }  // codes of all groups

  // Throws Error when a row is not finite.
  void Encode(const float* x,  // [N][d]
              int64_t n,
              int32_t* indices,  // [N][groups]
              float* quantized,  // [N][d]
              const CancelFlag& cancelled) const;

  // Throws Error on an index out of range.
  void Decode(const int32_t* indices,  // [N][groups]
              int64_t n,
              float* quantized) const;  // [N][d]

  // NaN where the query's group or the code is not finite.
  void Tables(const float* queries,  // [N][d]
              int64_t n,
              float* tables,  // [N][table_size]
              const CancelFlag& cancelled) const;

  // The k quantised rows nearest to every query by asymmetric distance (ip: of the largest sums), equal ones by
  // index; kNoCode and NaN where there is none, and for rows whose distance is NaN. Throws Error on an index out
  // of range.
  void Search(const float* queries,  // [N][d]
              int64_t n,
              const int32_t* rows,  // [R][groups]: what Encode gave
              int64_t row_count, int k,
              int32_t* indices,  // [N][k]
              float* distances,  // [N][k]
              const CancelFlag& cancelled) const;

 private:
  void CheckIndices(const int32_t* indices, int64_t n) const;
  void Table(const float* query, float* table) const;  // [d] to [table_size]

  std::vector<std::shared_ptr<const Codebook>> groups_;
  std::vector<int> begins_;       // first element of each group
  std::vector<int64_t> offsets_;  // of each group's table, and the end
  int dim_ = 0;
};

}  // namespace tokenflow
