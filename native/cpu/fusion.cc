#include "cpu/fusion.h"

#include <cstdlib>
#include <cstring>
#include <numeric>

#include "cpu/winograd.h"
#include "runtime/error.h"

namespace tokenflow {

namespace {

// TOKENFLOW_WINOGRAD=off: for comparing results and speeds.
bool WinogradWanted() {
  const char* wanted = std::getenv("TOKENFLOW_WINOGRAD");
  if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, "on") == 0) return true;
  if (std::strcmp(wanted, "off") == 0) return false;
  throw InvalidArgument(std::string("Expected on or off for TOKENFLOW_WINOGRAD but received '") + wanted +
                        "'");
}

bool IsWinograd(const Graph& graph, const Conv2d& op) {
  return WinogradWanted() && op.kernel == 3 && op.stride == 1 && op.activation == Activation::kNone &&
         op.padding == std::array<int64_t, 4>{1, 1, 1, 1} &&
         WinogradConv3x3::Supports(graph.values[op.x].Last(), graph.values[op.y].Last());
}

}  // namespace

std::vector<ValueId> OriginOf(const Graph& graph) {
  std::vector<ValueId> origin(graph.values.size());
  std::iota(origin.begin(), origin.end(), 0);
  for (const Op& op : graph.ops) {
    if (const auto* reshape = std::get_if<Reshape>(&op)) origin[reshape->y] = origin[reshape->x];
  }
  return origin;
}

std::vector<FusedStep> Fuse(const Graph& graph) {
  const std::vector<ValueId> origin = OriginOf(graph);
  // How often a value is read, by which op last, and which op makes it.
  std::vector<int> reads(graph.values.size(), 0), maker(graph.values.size(), -1),
      reader(graph.values.size(), -1);
  std::vector<int64_t> normalised_in(graph.values.size(), 0);  // groups
  for (size_t i = 0; i < graph.ops.size(); i++) {
    const Operands operands = OperandsOf(graph.ops[i]);
    for (const ValueId x : operands.reads) {
      reads[x]++;
      reader[x] = static_cast<int>(i);
    }
    for (const ValueId y : operands.writes) maker[y] = static_cast<int>(i);
    if (const auto* norm = std::get_if<GroupNorm>(&graph.ops[i])) {
      if (graph.values[origin[norm->x]].Last() == graph.values[norm->x].Last()) {
        normalised_in[origin[norm->x]] = norm->groups;
      }
    }
  }
  for (const Port& port : graph.outputs) reads[port.value]++;

  // The convolution that can apply a normalisation, or null: its only reader.
  const auto taker = [&](const GroupNorm& norm) -> const Conv2d* {
    if (!norm.swish || reads[norm.y] != 1 || reader[norm.y] < 0) return nullptr;
    const auto* conv = std::get_if<Conv2d>(&graph.ops[reader[norm.y]]);
    return conv != nullptr && conv->x == norm.y && IsWinograd(graph, *conv) ? conv : nullptr;
  };

  std::vector<FusedStep> steps;
  for (size_t i = 0; i < graph.ops.size(); i++) {
    const auto* norm = std::get_if<GroupNorm>(&graph.ops[i]);
    if (norm != nullptr && taker(*norm) != nullptr) continue;
    FusedStep fused{{i, OperandsOf(graph.ops[i])}};
    const auto* conv = std::get_if<Conv2d>(&graph.ops[i]);
    if (conv != nullptr && IsWinograd(graph, *conv)) {
      fused.winograd = true;
      fused.sum_groups = normalised_in[conv->y];
      const int before = maker[conv->x];
      const auto* taken = before < 0 ? nullptr : std::get_if<GroupNorm>(&graph.ops[before]);
      if (taken != nullptr && taker(*taken) == conv) {
        fused.norm = *taken;
        for (ValueId& x : fused.step.operands.reads) {
          if (x == conv->x) x = taken->x;
        }
      }
    }
    steps.push_back(std::move(fused));
  }
  return steps;
}

}  // namespace tokenflow
