// The residual quantiser: stage after stage, each codebook quantises what the stages before it left over; a row
// becomes one index per stage, and its reconstruction is the sum of their codes.
//
// Greedy takes the nearest code at every stage. A beam of width B instead keeps the B best partial sums: every
// one is extended by the B nearest codes of the next stage, and of these the B with the smallest squared error
// go on, equal ones by the rank of what they extend and then by nearness (Babenko and Lempitsky, "Additive
// Quantization", CVPR 2014; Liu et al., "Improved Residual Vector Quantization", arXiv:1509.05195). Width 1 is
// greedy, exactly.
//
// Residuals are float32, one subtraction per stage; squared errors are double sums in the order of the elements,
// so a result depends on neither thread count nor batch.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "codebook/codebook.h"

namespace tokenflow {

class ResidualQuantizer {
 public:
  // At least one codebook, all of one dimension.
  explicit ResidualQuantizer(std::vector<std::shared_ptr<const Codebook>> stages);

  int dim() const { return stages_[0]->dim(); }
  int stages() const { return static_cast<int>(stages_.size()); }

  // Throws Error when a row is not finite.
  void Encode(const float* x,  // [N][d]
              int64_t n, int beam,
              int32_t* indices,  // [N][stages]
              float* sum,        // [N][d]: the reconstruction
              float* errors,     // [N]: its squared error
              const CancelFlag& cancelled) const;

  // The sum over the first stages. Throws Error on an index out of range.
  void Decode(const int32_t* indices,  // [N][stage_count]
              int64_t n, int stage_count,
              float* sum,  // [N][d]
              const CancelFlag& cancelled) const;

 private:
  std::vector<std::shared_ptr<const Codebook>> stages_;
};

}  // namespace tokenflow
