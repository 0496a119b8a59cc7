// What the ops of a graph are run as on the CPU: a 3x3 convolution takes over the normalisation before it, and the
// statistics of the normalisation behind it.
#pragma once
#include <optional>
#include <vector>

#include "runtime/graph.h"
#include "runtime/memory_plan.h"

namespace tokenflow {

struct FusedStep {
  Step step;
  // For a convolution by Winograd's method only:
  bool winograd = false;
  std::optional<GroupNorm> norm;  // with swish, applied to what the convolution reads
  int64_t sum_groups = 0;         // > 0: the groups whose sums of y a later normalisation wants
};

// By value: itself, or what it is a reshape of.
std::vector<ValueId> OriginOf(const Graph& graph);

std::vector<FusedStep> Fuse(const Graph& graph);

}  // namespace tokenflow
