// From minima to the nearest codes; see settle.cu.
#pragma once
#include "launch.cuh"
#include "lookup_view.h"
#include "quantize.cuh"

namespace tokenflow::cuda {

constexpr int kMaxNearest = 64;

struct NearestResult {
  int32_t* indices;                   // [count][k]; kNoCode where there is none
  float* distances;                   // [count][k] or null; NaN where there is none
  float* part_distances;              // [part][count][k] or null
  int64_t part_stride;                // elements between the parts: all queries of the call times k
  unsigned long long* scored_groups;  // or null: += the groups (tiles for keys) that were scored again
  QuantizeResult quantized{};         // of the nearest
};

// k = 1, from the keys of NearestKeys.
void SettleKeys(const QueryView& queries, const CodebookView& book, const NearestResult& result,
                cudaStream_t stream);

// k <= kMaxNearest, from the minima of groups. They are exact, or coarse by at most queries.margin[q] when that is given.
void SettleMinima(const QueryView& queries, const CodebookView& book, const float* minima,  // [count][groups]
                  int k, const NearestResult& result, cudaStream_t stream);

}  // namespace tokenflow::cuda
