// The residual and the product quantiser on a card.
#pragma once
#include <memory>

#include "runtime/codebook_backend.h"
#include "workspace.h"

namespace tokenflow::cuda {

std::unique_ptr<PlacedResidual> MakeResidual(std::shared_ptr<Workspace> workspace,
                                             const PlacedCodebooks& stages);
std::unique_ptr<PlacedProduct> MakeProduct(std::shared_ptr<Workspace> workspace,
                                           const PlacedCodebooks& groups);

}  // namespace tokenflow::cuda
