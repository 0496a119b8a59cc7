// Queries made ready for a lookup; see prepare.cu.
#pragma once
#include "launch.cuh"
#include "lookup_view.h"

namespace tokenflow::cuda {

void PrepareQueries(const QueryView& queries, const CodebookView& book, cudaStream_t stream);

}  // namespace tokenflow::cuda
