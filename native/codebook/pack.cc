#include "codebook/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/lookup_kernels.h"
#include "runtime/error.h"

namespace tokenflow {

namespace {

constexpr int64_t kMaxCodes = int64_t{1} << 24;
constexpr int kMaxDim = 4096;

void CheckShape(const std::vector<CodebookPart>& parts, int64_t codes) {
  if (parts.empty()) throw InvalidArgument("Expected at least one part for a codebook");
  if (codes < 1 || codes > kMaxCodes) {
    throw InvalidArgument("Expected 1 to 16777216 codes but received " + std::to_string(codes));
  }
  int64_t dim = 0;
  for (const CodebookPart& part : parts) {
    if (part.dim < 1) throw InvalidArgument("Expected a dimension of at least 1 for every part");
    dim += part.dim;
  }
  if (dim > kMaxDim) {
    throw InvalidArgument("Expected at most 4096 dimensions in all but received " + std::to_string(dim));
  }
}

float SumOfSquares(const float* v, int dim) {
  float sum = 0.0f;
  for (int k = 0; k < dim; k++) sum = std::fma(v[k], v[k], sum);
  return sum;
}

// Writes one part of a row as it is compared; false when it has no finite form.
bool CompareForm(const float* v, int dim, bool normalize, float* out) {
  bool finite = true;
  for (int k = 0; k < dim; k++) finite &= std::isfinite(v[k]);
  const float norm = normalize ? std::sqrt(SumOfSquares(v, dim)) : 1.0f;
  for (int k = 0; k < dim; k++) out[k] = !normalize ? v[k] : norm > 0.0f ? v[k] / norm : 0.0f;
  return finite && std::isfinite(norm);
}

}  // namespace

PackedCodes PackCodes(const std::vector<CodebookPart>& parts, int64_t codes, Metric metric) {
  CheckShape(parts, codes);
  PackedCodes packed{};
  packed.metric = metric;
  packed.codes = codes;
  packed.part_count = static_cast<int>(parts.size());
  for (const CodebookPart& part : parts) packed.dim += part.dim;
  const int dim = packed.dim;
  const int64_t group = kPanelGroup * kPanelCodes;
  const int64_t padded = (codes + group - 1) / group * group;
  packed.panels = padded / kPanelCodes;
  packed.rows.resize(codes * dim);
  packed.panel_codes.assign(padded * dim, 0.0f);
  packed.part_norms.assign(packed.part_count * padded, INFINITY);

  std::vector<float> norms(packed.part_count);
  for (int64_t j = 0; j < codes; j++) {
    float* row = packed.rows.data() + j * dim;
    bool finite = true;
    int begin = 0;
    for (int p = 0; p < packed.part_count; p++) {
      const CodebookPart& part = parts[p];
      const bool normalize = part.normalize || metric == Metric::kCosine;
      finite &= CompareForm(part.vectors + j * part.dim, part.dim, normalize, row + begin);
      norms[p] = metric == Metric::kL2 ? SumOfSquares(row + begin, part.dim) : 0.0f;
      finite &= std::isfinite(norms[p]);
      begin += part.dim;
    }
    if (!finite) {
      packed.non_finite++;
      continue;
    }
    for (int p = 0; p < packed.part_count; p++) packed.part_norms[p * padded + j] = norms[p];
    float* panel = packed.panel_codes.data() + j / kPanelCodes * kPanelCodes * dim + j % kPanelCodes;
    for (int k = 0; k < dim; k++) {
      panel[k * kPanelCodes] = row[k];
      packed.largest = std::max(packed.largest, std::fabs(row[k]));
    }
  }
  return packed;
}

AlignedVector<float> NormsFor(const PackedCodes& packed, const float* weights) {
  const int64_t padded = packed.panels * kPanelCodes;
  AlignedVector<float> norms(padded);
  for (int64_t j = 0; j < padded; j++) {
    if (std::isinf(packed.part_norms[j])) {  // in every part alike, and whatever the sign of a weight
      norms[j] = INFINITY;
      continue;
    }
    float norm = 0.0f;
    for (int p = 0; p < packed.part_count; p++) {
      norm = std::fma(weights[p], packed.part_norms[p * padded + j], norm);
    }
    norms[j] = norm;
  }
  return norms;
}

}  // namespace tokenflow
