// The CUDA backend of one card.
#pragma once
#include <memory>

#include "runtime/backend.h"

namespace tokenflow::cuda {

// Throws Error when the card cannot be had.
std::unique_ptr<Backend> OpenBackend(int index);

}  // namespace tokenflow::cuda
