// What the learning of codebooks computes on a card.
#pragma once
#include <memory>

#include "runtime/codebook_backend.h"
#include "workspace.h"

namespace tokenflow::cuda {

// CodebookBackend::SumByCode.
void SumByCode(Workspace& workspace, const Operand& x, const Operand& indices, int64_t n, int dim,
               int64_t codes, bool normalize, double* counts, double* sums, const CancelFlag& cancelled);

std::unique_ptr<PlacedRows> MakeRows(std::shared_ptr<Workspace> workspace, const float* x, int64_t n,
                                     int dim);

}  // namespace tokenflow::cuda
