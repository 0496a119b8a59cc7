// What every op of the CPU backend is made of: a function that compiles it once, and the closure that runs
// it.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "cpu/fusion.h"
#include "cpu/weight_store.h"
#include "runtime/graph.h"

namespace tokenflow {

// The memory of one run.
struct Frame {
  char* const* values;  // by ValueId
  char* scratch;
  const CancelFlag& cancelled;

  template <class T = float>
  T* at(ValueId id) const {
    return reinterpret_cast<T*>(values[id]);
  }
};

struct CompiledOp {
  std::function<void(const Frame&)> run;
  std::function<int64_t()> scratch_bytes = [] { return int64_t{0}; };  // with the threads in force
};

struct FloatArray {
  Buffer buffer;
  const float* data() const { return buffer.as<float>(); }
};

// What an op may ask for while it is compiled.
class Compiler {
 public:
  Compiler(const Graph& graph, CpuWeightStore& store, Precision precision)
      : graph(graph), precision(precision), store_(store) {}

  const GraphValue& value(ValueId id) const { return graph.values[id]; }

  template <class T>
  std::shared_ptr<Weight<T>> Request(const std::string& packing, const std::vector<WeightPart>& parts,
                                     typename Weight<T>::Packer packer) {
    auto weight = store_.Request<T>(packing, parts, std::move(packer));
    weights_.push_back(weight);
    return weight;
  }
  // As it is in the checkpoint, zeros behind it up to a multiple of `pad` elements.
  std::shared_ptr<Weight<FloatArray>> RequestArray(const std::vector<WeightPart>& parts, int64_t pad = 1);

  const std::vector<std::shared_ptr<WeightEntry>>& weights() const { return weights_; }

  // Sums and sums of squares per image and group, [batch][groups][2], that the op which makes a value leaves for
  // the normalisation that reads it.
  using GroupSums = std::shared_ptr<std::vector<double>>;
  GroupSums GatherGroupSums(ValueId y, int64_t groups);
  GroupSums GroupSumsOf(ValueId x, int64_t groups) const;  // null: nobody gathers them

  const Graph& graph;
  const Precision precision;

 private:
  CpuWeightStore& store_;
  std::vector<std::shared_ptr<WeightEntry>> weights_;
  std::map<std::pair<ValueId, int64_t>, GroupSums>
      group_sums_;  // by value, a reshape being its operand, and groups
};

CompiledOp Compile(const PixelsToFloat& op, Compiler& compiler);
CompiledOp Compile(const FloatToPixels& op, Compiler& compiler);
CompiledOp Compile(const ScaleInput& op, Compiler& compiler);
CompiledOp Compile(const Conv2d& op, Compiler& compiler);
CompiledOp CompileWinograd(const Conv2d& op, const FusedStep& fused, Compiler& compiler);
CompiledOp Compile(const Linear& op, Compiler& compiler);
CompiledOp Compile(const GroupNorm& op, Compiler& compiler);
CompiledOp Compile(const LayerNorm& op, Compiler& compiler);
CompiledOp Compile(const Attention& op, Compiler& compiler);
CompiledOp Compile(const PrependToken& op, Compiler& compiler);
CompiledOp Compile(const AddTable& op, Compiler& compiler);
CompiledOp Compile(const SliceTokens& op, Compiler& compiler);
CompiledOp Compile(const SliceChannels& op, Compiler& compiler);
CompiledOp Compile(const ConcatChannels& op, Compiler& compiler);
CompiledOp Compile(const Reshape& op, Compiler& compiler);
CompiledOp Compile(const ResizeBicubic& op, Compiler& compiler);
CompiledOp Compile(const MultiscaleEncode& op, Compiler& compiler);
CompiledOp Compile(const MultiscaleDecode& op, Compiler& compiler);

}  // namespace tokenflow
