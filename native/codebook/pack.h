// A codebook as the kernels read it: built once, never changed.
#pragma once
#include <cstdint>
#include <vector>

#include "codebook/aligned.h"
#include "codebook/score.h"

namespace tokenflow {

// One part of a codebook as it is handed in.
struct CodebookPart {
  const float* vectors;  // [codes][dim]
  int dim;
  bool normalize;  // compare unit vectors: implied by Metric::kCosine
};

struct PackedCodes {
  Metric metric;
  int64_t codes;
  int dim;             // of a whole row
  int part_count;      // parts, in the order of a row
  int64_t panels;      // of 16 codes, a multiple of kPanelGroup
  int64_t non_finite;  // codes that can never be chosen
  float largest;       // magnitude of an element of the others

  AlignedVector<float> rows;         // [codes][dim] as compared: normalised where a part says so
  AlignedVector<float> panel_codes;  // [panels][dim][16]; zeros for padding and non-finite codes
  AlignedVector<float> part_norms;   // [part][panels * 16]; +inf for padding and non-finite codes
};

// Throws Error when the shapes make no codebook.
PackedCodes PackCodes(const std::vector<CodebookPart>& parts, int64_t codes, Metric metric);

// n_j of the definition for these weights: [panels * 16].
AlignedVector<float> NormsFor(const PackedCodes& packed, const float* weights);  // [part]

}  // namespace tokenflow
