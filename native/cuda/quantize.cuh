// What a quantiser wants beside the nearest codes; see quantize.cu.
#pragma once
#include "launch.cuh"
#include "lookup_view.h"

namespace tokenflow::cuda {

struct QuantizeResult {
  float* codes;  // [count][dim] or null: the nearest code; NaN where there is none
  float*
      errors;  // [count] or null: its squared distance from the query as compared, unweighted; NaN likewise
  int32_t* counts;  // [codes] or null: += queries by nearest code
};

void Quantize(const QueryView& queries, const CodebookView& book,
              const int32_t* nearest,  // [count][k], of which the first counts
              int k, const QuantizeResult& result, cudaStream_t stream);

}  // namespace tokenflow::cuda
