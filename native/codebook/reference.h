// The lookup as one would write it on a blackboard, for tests to trust: no panels, no tiles, no threads.
//
// ChainNearest is codebook/score.h in its own arithmetic: every kernel must give exactly its index.
// RealScores are the same scores in double, by which the chain itself is judged.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "codebook/score.h"

namespace tokenflow {
namespace reference {

struct Part {
  const float* vectors;  // [codes][dim]
  int dim;
  bool normalize;
  float weight;
};

template <class Real>
std::vector<Real> Compared(const float* v, int dim, bool normalize) {
  Real sum = 0;
  for (int k = 0; k < dim; k++) sum = std::fma(Real{v[k]}, Real{v[k]}, sum);
  const Real norm = std::sqrt(sum);
  std::vector<Real> out(v, v + dim);
  for (Real& value : out) value = !normalize ? value : norm > 0 ? value / norm : 0;
  if (normalize && !std::isfinite(norm)) out.assign(dim, static_cast<Real>(NAN));
  return out;
}

// The score of code j for the query x [sum of dims]; NaN when the code or the query can have none.
template <class Real>
Real Score(Metric metric, const std::vector<Part>& parts, const float* x, int64_t j) {
  Real score = 0;
  bool finite = true;
  for (const Part& part : parts) {
    const auto c = Compared<Real>(part.vectors + j * part.dim, part.dim, part.normalize);
    Real norm = 0;
    for (const Real value : c) norm = std::fma(value, value, norm);
    if (metric == Metric::kL2) score = std::fma(Real{part.weight}, norm, score);
    for (const Real value : c) finite &= std::isfinite(value);
    if (metric == Metric::kL2) finite &= std::isfinite(norm);
  }
  for (const Part& part : parts) {
    const auto q = Compared<Real>(x, part.dim, part.normalize);
    const auto c = Compared<Real>(part.vectors + j * part.dim, part.dim, part.normalize);
    const Real factor = Real{QueryFactor(metric)} * Real{part.weight};
    for (int k = 0; k < part.dim; k++) {
      const Real y = factor * q[k];
      finite &= std::isfinite(y) && std::isfinite(x[k]);
      score = std::fma(y, c[k], score);
    }
    x += part.dim;
  }
  return finite ? score : static_cast<Real>(NAN);
}

// The k nearest codes of one query by the float chain, kNoCode where there is none.
inline void ChainNearest(Metric metric, const std::vector<Part>& parts, int64_t codes, const float* x, int k,
                         int32_t* indices) {
  std::vector<float> scores(codes);
  for (int64_t j = 0; j < codes; j++) scores[j] = Score<float>(metric, parts, x, j);
  for (int rank = 0; rank < k; rank++) {
    int32_t best = kNoCode;
    for (int64_t j = 0; j < codes; j++) {
      if (!(scores[j] < INFINITY)) continue;
      if (best == kNoCode || scores[j] < scores[best]) best = static_cast<int32_t>(j);
    }
    indices[rank] = best;
    if (best != kNoCode) scores[best] = NAN;  // taken
  }
}

}  // namespace reference
}  // namespace tokenflow
