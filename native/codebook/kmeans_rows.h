// The rows of k-means on the CPU.
#pragma once
#include <memory>

#include "runtime/codebook_backend.h"

namespace tokenflow {

// Rows whose sum is taken at once. Sums of blocks are added in order, whoever computed them.
constexpr int64_t kRowBlock = 4096;

// Copies the rows.
std::unique_ptr<PlacedRows> HostRows(const float* x, int64_t n, int dim);  // [n][dim]

}  // namespace tokenflow
