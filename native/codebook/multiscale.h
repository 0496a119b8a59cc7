// The multi-scale residual quantiser: a grid of features becomes one token per cell of every scale, coarse to
// fine, each scale quantising what the coarser ones left over (TokenFlow; VAR, whose phi convolutions are optional).
//
// For each scale s of the schedule, the last being the grid g:
//   u = area-down(residual, s); index = the nearest code of every cell of u; q = the codes
//   up = bicubic-up(q, g), then phi(up) where there are phis; sum += up; residual -= up
// The residual itself is never normalised; the codebook normalises the pooled cells where its parts say so.
// An image's tokens do not depend on what else is in the batch.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "codebook/codebook.h"
#include "codebook/phi.h"
#include "codebook/resample.h"

namespace tokenflow {

class MultiScaleQuantizer {
 public:
  // `scales` ascending, at least one; `weights` one per part of the codebook, or empty for ones; `phis` of the
  // codebook's dimension, shared out among the scales by PhiOfScale, or empty for none.
  MultiScaleQuantizer(std::shared_ptr<const Codebook> codebook, std::vector<int> scales,
                      std::vector<float> weights = {}, std::vector<Phi> phis = {});

  const Codebook& codebook() const { return *codebook_; }
  const std::vector<int>& scales() const { return scales_; }
  int grid() const { return scales_.back(); }
  int64_t tokens(int scale_count) const;  // of the first scales
  int64_t tokens() const { return tokens(static_cast<int>(scales_.size())); }

  // Throws Error when a cell of the features is not finite. `sum` may be null.
  void Encode(const float* features,  // [batch][g][g][dim]
              int64_t batch,
              int32_t* indices,  // [batch][tokens]: scale by scale, row-major inside a scale
              float* sum,        // [batch][g][g][dim]: what decoders read
              const CancelFlag& cancelled) const;

  // The sum over the first scales. Throws Error on an index out of range.
  void Decode(const int32_t* indices,  // [batch][tokens(scale_count)]
              int64_t batch, int scale_count,
              float* sum,  // [batch][g][g][dim]
              const CancelFlag& cancelled) const;

 private:
  // Adds the codes of a scale, brought up to the grid, to the sum, and takes them from the residual unless it is null.
  void Add(int scale, const float* codes, int64_t batch, float* sum, float* residual) const;

  std::shared_ptr<const Codebook> codebook_;
  std::vector<int> scales_;
  std::vector<float> weights_;
  std::vector<BicubicUp> up_;  // one per scale
  std::vector<Phi> phis_;
  std::vector<int> phi_of_scale_;  // empty without phis
};

}  // namespace tokenflow
