#include "norm_fusion.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "gemm.cuh"
#include "halo_conv.cuh"
#include "runtime/error.h"
#include "sgemm.cuh"

namespace tokenflow::cuda {

namespace {

namespace ops = ::tokenflow;  // the ops share their names with the functions that compute them

ValueId AddValue(FusedGraph& fused, std::vector<int64_t> shape) {
  fused.graph.values.push_back({std::move(shape), DType::kF32});
  fused.elements.push_back(Element::kFloat);
  return static_cast<ValueId>(fused.graph.values.size()) - 1;
}

bool WholeQuads(const ops::GroupNorm& norm, int64_t channels) {
  return channels % 8 == 0 && channels / norm.groups % kQuad == 0;
}

// A convolution that a halo convolution computes when its x is a norm.
bool CanApply(const ops::Conv2d& conv, const Graph& graph) {
  const std::vector<int64_t>& x = graph.values[conv.x].shape;
  return conv.kernel == 3 && conv.stride == 1 && conv.upsample == 1 &&
         conv.padding == std::array<int64_t, 4>{1, 1, 1, 1} && x[3] % 8 == 0 &&
         x[1] * x[2] * x[3] <= INT32_MAX && HaloFits(static_cast<int>(x[1]), static_cast<int>(x[2]));
}

}  // namespace

NormFusion WantedNormFusion() {
  const char* wanted = std::getenv("TOKENFLOW_CUDA_GROUP_NORM");
  if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, "fused") == 0) return NormFusion::kFused;
  if (std::strcmp(wanted, "moments") == 0) return NormFusion::kMoments;
  if (std::strcmp(wanted, "separate") == 0) return NormFusion::kSeparate;
  throw InvalidArgument(std::string("Expected fused, moments or separate for TOKENFLOW_CUDA_GROUP_NORM but "
                                    "received '") +
                        wanted + "'");
}

ValueId FusedGraph::Origin(ValueId x) const {
  for (auto it = reshaped_.find(x); it != reshaped_.end(); it = reshaped_.find(x)) x = it->second;
  return x;
}

ValueId FusedGraph::MomentsOf(const ops::GroupNorm& norm) const {
  const ValueId from = Origin(norm.x);
  const auto it = moments.find(from);
  if (it == moments.end() || !WholeQuads(norm, graph.values[norm.x].Last())) return kNoValue;
  return graph.values[from].Last() == graph.values[norm.x].Last() ? it->second : kNoValue;
}

Operands FusedGraph::OperandsOf(size_t i) const {
  const Op& op = graph.ops[i];
  Operands operands = ops::OperandsOf(op);
  if (const auto* norm = std::get_if<ops::GroupNorm>(&op)) {
    const ValueId left = MomentsOf(*norm);
    const auto it = applied.find(norm->y);
    if (it != applied.end()) {
      // With moments the map itself is not looked at.
      return {{left != kNoValue ? left : norm->x}, {it->second.scales}, kNoValue};
    }
    if (left != kNoValue) operands.reads.push_back(left);
  }
  if (const auto* conv = std::get_if<ops::Conv2d>(&op)) {
    const auto it = applied.find(conv->x);
    if (it != applied.end()) {
      operands.reads[0] = it->second.x;
      operands.reads.push_back(it->second.scales);
    }
  }
  const auto left = operands.writes.empty() ? moments.end() : moments.find(operands.writes[0]);
  if (left != moments.end()) {
    // A result that is the caller's memory leaves its residual's to whoever writes next, which must not be the moments.
    for (const Port& port : graph.outputs) {
      if (port.value == operands.writes[0]) operands.in_place = kNoValue;
    }
    operands.writes.push_back(left->second);
  }
  return operands;
}

FusedGraph FuseNorms(const Graph& graph, Precision precision, NormFusion wanted) {
  FusedGraph fused;
  fused.graph = graph;
  fused.elements = ElementsOf(graph, precision);
  if (wanted == NormFusion::kSeparate) return fused;

  std::vector<int> uses(graph.values.size(), 0);
  std::map<ValueId, const ops::Conv2d*> convolution_of;  // by what it reads
  std::set<ValueId> normed;                              // by where their values come from
  for (const Op& op : graph.ops) {
    for (const ValueId x : ops::OperandsOf(op).reads) uses[x]++;
    if (const auto* conv = std::get_if<ops::Conv2d>(&op)) convolution_of[conv->x] = conv;
    if (const auto* reshape = std::get_if<ops::Reshape>(&op)) fused.reshaped_[reshape->y] = reshape->x;
  }
  for (const Port& port : graph.outputs) uses[port.value]++;

  for (const Op& op : graph.ops) {
    const auto* norm = std::get_if<ops::GroupNorm>(&op);
    if (norm == nullptr) continue;
    const std::vector<int64_t>& shape = graph.values[norm->x].shape;
    const ValueId from = fused.Origin(norm->x);
    if (WholeQuads(*norm, shape.back()) && graph.values[from].Last() == shape.back()) normed.insert(from);
    const auto reader = convolution_of.find(norm->y);
    if (wanted != NormFusion::kFused || fused.elements[norm->x] != Element::kBf16 || uses[norm->y] != 1 ||
        reader == convolution_of.end() || !CanApply(*reader->second, graph)) {
      continue;
    }
    const ValueId scales = AddValue(fused, {2, shape[0], shape.back()});
    fused.applied[norm->y] = {norm->x, scales, norm->swish};
  }

  for (const Op& op : graph.ops) {
    const auto* conv = std::get_if<ops::Conv2d>(&op);
    const auto* linear = std::get_if<ops::Linear>(&op);
    if (conv == nullptr && linear == nullptr) continue;
    const ValueId y = conv != nullptr ? conv->y : linear->y;
    const std::vector<int64_t>& shape = graph.values[y].shape;
    const int64_t rows = graph.values[y].Rows() / shape[0];
    if (normed.count(y) == 0 || shape[0] == 0 || rows > INT32_MAX / 64) continue;
    const int pieces = precision == Precision::kF32 ? SgemmPieces(static_cast<int>(rows))
                       : conv != nullptr && fused.applied.count(conv->x) != 0
                           ? HaloPieces(static_cast<int>(shape[1]), static_cast<int>(shape[2]))
                           : GemmPieces(static_cast<int>(rows));
    fused.moments[y] = AddValue(fused, {shape[0], pieces, 3, shape.back() / kQuad});
  }
  return fused;
}

}  // namespace tokenflow::cuda
