// Which group norms of a graph are computed by their neighbours, and the values between them that the graph does not have.
//
//   producer -> moments      a convolution or linear layer whose result is normalised leaves the moments of it (moments.cuh),
//                            when the groups are whole quads of channels
//   norm -> scales           a norm that only one 3x3 convolution reads (bf16, stride 1, one pixel of padding, a map that
//                            patches fit) is finished as a scale and a shift per channel
//   scales -> convolution    which applies them to what it loads (halo_conv.cu); the normalised map has no memory
//
// f32 keeps to the first. Its chains run over taps, then channels, to be the CPU's to the bit; a halo convolution runs over chunks
// of channels first, and in the order of the chains the sigmoid would be computed nine times for every element, in a
// convolution that is bound by arithmetic (the separate pass is bound by memory, and small beside it).
//
// TOKENFLOW_CUDA_GROUP_NORM, read when a program is made: fused (all of it, the default), moments (the first alone), separate
// (none: the reference, and what a card measures the others against).
#pragma once
#include <map>
#include <set>

#include "element.h"

namespace tokenflow::cuda {

enum class NormFusion { kSeparate, kMoments, kFused };

// Throws Error for any other word.
NormFusion WantedNormFusion();

struct FusedGraph {
  // The graph with the values of the fusion behind its own, all of fp32.
  Graph graph;
  std::vector<Element> elements;  // by value

  // By the y of a producer: [images][pieces][3][quads].
  std::map<ValueId, ValueId> moments;
  // By the y of a norm that its reader applies: scales [2][images][channels] of x.
  struct Applied {
    ValueId x, scales;
    bool swish;
  };
  std::map<ValueId, Applied> applied;

  // The value that `x` is when reshapes are looked through.
  ValueId Origin(ValueId x) const;
  // kNoValue where a producer leaves none, or the norm's groups split a quad.
  ValueId MomentsOf(const ::tokenflow::GroupNorm& norm) const;
  // What the i-th op reads and writes in this graph.
  Operands OperandsOf(size_t i) const;

 private:
  friend FusedGraph FuseNorms(const Graph& graph, Precision precision, NormFusion wanted);
  std::map<ValueId, ValueId> reshaped_;  // result to operand
};

FusedGraph FuseNorms(const Graph& graph, Precision precision, NormFusion wanted);

}  // namespace tokenflow::cuda
