// The coarse lookup on tensor cores; see screen.cu.
#pragma once
#include "launch.cuh"
#include "lookup_view.h"

namespace tokenflow::cuda {

// minima[q][g] = the smallest coarse score of group g; within queries.margin[q] of the exact one, +inf where no code of the
// group can be chosen. Needs queries.y_low and bf16 tensor cores (sm_80).
void ScreenMinima(const QueryView& queries, const CodebookView& book, int splits,
                  float* minima,  // [count][groups]
                  cudaStream_t stream);

}  // namespace tokenflow::cuda
