// A codebook that can be searched: the nearest codes of many queries, and the rows behind indices.
//
// It has one or more parts that share one index (a dual codebook: semantic and pixel); a row is the
// concatenation of its parts. Immutable, so any number of threads may hold it; a lookup runs its parallel
// loops and belongs on the compute thread (runtime/queue.h). codebook/score.h defines which code is nearest.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "codebook/pack.h"
#include "cpu/lookup_kernels.h"
#include "runtime/queue.h"

namespace tokenflow {

struct NearestOutput {
  int32_t* indices;       // [N][k]; kNoCode where there is none
  float* distances;       // [N][k] or null; NaN where there is none
  float* part_distances;  // [part][N][k] or null: each part's own distance, unweighted
};

class Codebook {
 public:
  // Copies the vectors. Throws Error when the shapes make no codebook.
  Codebook(const std::vector<CodebookPart>& parts, int64_t codes, Metric metric);

  int64_t codes() const { return packed_.codes; }
  int dim() const { return packed_.dim; }
  int part_count() const { return packed_.part_count; }
  Metric metric() const { return packed_.metric; }
  int64_t non_finite() const { return packed_.non_finite; }
  const float* rows() const { return packed_.rows.data(); }  // [codes][dim] as compared
  int64_t bytes() const;                                     // resident
  const PackedCodes& packed() const { return packed_; }

  // The k nearest codes of every query, nearest first, with their distances recomputed from the rows: l2 the
  // squared distance, cosine 1 - cos, ip the inner product; weighted sums over the parts. `weights` has one
  // per part, or is null for ones. Stops early, with unspecified results, once `cancelled` is set.
  void Nearest(const float* x,  // [N][dim]
               int64_t n, int k, const float* weights, const NearestOutput& out,
               const CancelFlag& cancelled) const;

  // out[i] = row indices[i]; kNoCode and anything else out of range throws.
  void Gather(const int32_t* indices, int64_t n, float* out) const;  // [n][dim]

  std::vector<PartSpan> Spans(const float* weights) const;
  std::shared_ptr<const AlignedVector<float>> Norms(const float* weights) const;

 private:
  PackedCodes packed_;
  std::vector<PartSpan> spans_;  // with weights of one

  // Norms of the last weights asked for: a caller rarely changes them.
  mutable std::mutex norms_mutex_;
  mutable std::vector<float> norms_weights_;
  mutable std::shared_ptr<const AlignedVector<float>> norms_;
};

// The kernels of the level in force.
const LookupKernels& ActiveLookup();

}  // namespace tokenflow
