// A graph compiled for a card.
#pragma once
#include <memory>

#include "card.h"
#include "runtime/backend.h"
#include "weights.h"

namespace tokenflow::cuda {

std::shared_ptr<Program> CompileProgram(const Graph& graph, std::shared_ptr<CudaWeightStore> store,
                                        Precision precision);

}  // namespace tokenflow::cuda
