// The definition of a score. Every kernel, instruction set, batch size, thread count and screen gives the
// code that this definition gives, bit for bit.
//
// A codebook has parts p = 1..P (one for a plain codebook, two for a dual one). A row is the concatenation of
// its parts, [d] with d = sum of their dimensions. With per-call weights w_p:
//
//   part norm  n_pj = fma chain of c_k * c_k over the part, from +0, k ascending (0 unless the metric is l2)
//   norm       n_j  = fma chain of w_p * n_pj over the parts, from +0, p ascending
//   query      y_k  = (f * w_p) * x_k, f = -2 for l2, -1 for cosine and ip
//   score      s_j  = fma chain of y_k * c_jk from n_j, k ascending
//
// in float32, each fma rounded once, nothing reassociated. l2 orders as the weighted squared distance (which
// is s_j + sum w x^2), cosine and ip as the weighted similarity, largest first.
//
// Order: the nearest code is the smallest (score, index); -0 equals +0, so ties go to the lowest index.
//
// Normalisation (metric cosine, or a part that asks for it; codes and queries alike, each part by itself):
// the square root of the fma chain of squares, then an IEEE division of each element. A part whose squares
// sum to 0 counts as the zero vector and becomes zeros.
//
// NaN and infinity: a code with a non-finite element (or whose norm overflows) is never chosen: it is packed
// as zeros with norm +inf. A score that is NaN or +inf is never chosen. A query with a non-finite element, or
// one that overflows in the definition above, has no nearest code: index -1, distance NaN; so have the places
// of a top-k beyond the last code that can be chosen.
//
// Distances are not scores: they are recomputed for the winners from the rows themselves, see DistancesOf in
// cpu/lookup_rows.inc.
#pragma once
#include <cstdint>

namespace tokenflow {

enum class Metric { kL2, kCosine, kInnerProduct };

// f above.
constexpr float QueryFactor(Metric metric) {
  return metric == Metric::kL2 ? -2.0f : -1.0f;
}

// Index of "no code".
constexpr int32_t kNoCode = -1;

// The order of (score, index).
constexpr bool Before(float score, int32_t index, float other_score, int32_t other_index) {
  return score < other_score || (score == other_score && index < other_index);
}

// A part of a row and how a call sees it; plain data, so that kernels may read it.
struct PartSpan {
  int begin, end;      // elements of the row
  bool normalize;      // divide queries and codes by the part's norm
  float weight;        // w_p
  float query_factor;  // f * w_p
};

}  // namespace tokenflow
