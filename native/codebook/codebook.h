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
#include "codebook/plan.h"
#include "codebook/screen.h"
#include "cpu/lookup_kernels.h"
#include "runtime/codebook_backend.h"
#include "runtime/queue.h"

namespace tokenflow {

struct NearestOutput {
  int32_t* indices;         // [N][k]; kNoCode where there is none
  float* distances;         // [N][k] or null; NaN where there is none
  float* part_distances;    // [part][N][k] or null: each part's own distance, unweighted
  float* codes = nullptr;   // [N][dim] or null: the nearest code itself; NaN where there is none
  float* errors = nullptr;  // [N] or null: squared distance of the query as compared from it, unweighted
};

class Codebook {
 public:
  // Copies the vectors. `unit` says of each part whether its vectors are unit vectors already, to be taken as they
  // are where the part is normalised; empty for none. Throws Error when the shapes make no codebook.
  Codebook(const std::vector<CodebookPart>& parts, int64_t codes, Metric metric,
           ScreenMode screen_mode = ScreenMode::kAuto, const std::vector<bool>& unit = {});

  int64_t codes() const { return packed_.codes; }
  int dim() const { return packed_.dim; }
  int part_count() const { return packed_.part_count; }
  Metric metric() const { return packed_.metric; }
  int64_t non_finite() const { return packed_.non_finite; }
  const float* rows() const { return packed_.rows.data(); }  // [codes][dim] as compared
  int64_t bytes() const;                                     // resident
  const PackedCodes& packed() const { return packed_; }
  const std::vector<PartSpan>& parts() const { return spans_; }  // with weights of one

  // The k nearest codes of every query, nearest first, with their distances recomputed from the rows: l2 the
  // squared distance, cosine 1 - cos, ip the inner product; weighted sums over the parts. `weights` has one
  // per part, or is null for ones. Stops early, with unspecified results, once `cancelled` is set.
  void Nearest(const float* x,  // [N][dim]
               int64_t n, int k, const float* weights, const NearestOutput& out,
               const CancelFlag& cancelled) const;

  // Whether a lookup of n queries takes but tens of microseconds, with everything prepared that it needs.
  bool IsBrief(int64_t n, const float* weights) const;

  // out[i] = row indices[i]; kNoCode and anything else out of range throws.
  void Gather(const int32_t* indices, int64_t n, float* out) const;  // [n][dim]

  LookupCounts counts() const;
  // The screen of this instruction set, or null where there is none.
  const char* screen_name() const;

 private:
  // What depends on the weights of a call.
  struct Weighted {
    std::vector<PartSpan> spans;
    AlignedVector<float> norms;
    std::unique_ptr<const ScreenNorms> screen;  // null until a lookup is screened
  };

  std::shared_ptr<const Weighted> ForWeights(const float* weights, bool screened) const;
  bool UseScreen(int64_t n, int k) const;
  std::vector<float> WeightsOr1(const float* weights) const;

  const PackedCodes packed_;
  const ScreenMode screen_mode_;
  std::vector<PartSpan> spans_;  // with weights of one

  mutable std::mutex cache_mutex_;
  mutable std::vector<float> cached_weights_;  // the last asked for: a caller rarely changes them
  mutable std::shared_ptr<const Weighted> cached_;
  mutable std::unique_ptr<const ScreenCodes> screen_;  // packed once it pays
  mutable int64_t queries_asked_ = 0;
  mutable int screen_rest_ = 0, screen_pause_ = 0;  // calls to go without it, after data that defeat it

  mutable ScreenCounts counts_;
};

// The kernels of the level in force.
const LookupKernels& ActiveLookup();

}  // namespace tokenflow
