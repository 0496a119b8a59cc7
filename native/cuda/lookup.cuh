// Nearest and top-k codes on the device: the index is codebook/score.h's, bit for bit, whatever the plan.
#pragma once
#include "launch.cuh"
#include "lookup_plan.h"
#include "lookup_view.h"
#include "settle.cuh"

namespace tokenflow::cuda {

size_t LookupWorkspaceBytes(const CodebookView& book, const LookupPlan& plan);

// Throws Error when k is not 1 to kMaxNearest or exceeds the codes.
void Lookup(const float* x,  // [queries][dim]
            int64_t queries, const CodebookView& book, int k, const LookupPlan& plan,
            const NearestResult& result, void* workspace, cudaStream_t stream);

}  // namespace tokenflow::cuda
