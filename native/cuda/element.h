// How the values of a graph are stored on a card. f32 programs store what the graph says. bf16 programs store the inputs of
// products in bf16 where everyone who touches them can work with it: half the memory traffic of the convolutional branches.
// The residual stream of a transformer stays fp32 (it is what layer_norm reads), and so does all that moves, adds tables or
// is quantised.
#pragma once
#include <vector>

#include "runtime/graph.h"

namespace tokenflow::cuda {

enum class Element { kFloat, kBf16, kByte, kInt };

inline int64_t BytesOf(Element element) {
  return element == Element::kByte ? 1 : element == Element::kBf16 ? 2 : 4;
}

// By value.
std::vector<Element> ElementsOf(const Graph& graph, Precision precision);

}  // namespace tokenflow::cuda
