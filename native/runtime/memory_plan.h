// Where every value of a graph lies: one arena, its space reused as soon as a value has been read for the
// last time. Pure arithmetic on shapes.
#pragma once
#include <vector>

#include "runtime/graph.h"

namespace tokenflow {

// One thing the backend runs: an op of the graph, or several fused, with the values it really touches.
struct Step {
  size_t op;  // the op it is counted under
  Operands operands;
};

// The memory of one or more values that share it.
struct Place {
  enum Kind { kNowhere, kArena, kInput, kOutput } kind = kNowhere;
  int64_t offset = 0;  // in the arena
  int port = -1;       // of graph.inputs or graph.outputs
};

struct MemoryPlan {
  std::vector<Place> places;  // by value; kNowhere for what a fusion has made unnecessary
  std::vector<bool> moved;    // by step: a reshape that the plan made free
  int64_t arena_bytes;
};

constexpr int64_t kAlignment = 64;

// Inputs and outputs are the caller's memory. A reshape shares its operand's memory where neither end forbids
// it; a step's result takes over Operands::in_place where nothing reads that later. Everything else is placed
// best fit, largest first.
// `bytes` of each value: a backend may store one as something smaller than the graph's type.
MemoryPlan PlanMemory(const Graph& graph, const std::vector<Step>& steps, const std::vector<int64_t>& bytes);
MemoryPlan PlanMemory(const Graph& graph, const std::vector<Step>& steps);

}  // namespace tokenflow
