// What every op of a program is made of: a function that compiles it once, and the closure that puts its kernels into a
// stream.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch.cuh"
#include "moments.cuh"
#include "norm_fusion.h"
#include "weights.h"

namespace tokenflow::cuda {

namespace ops = ::tokenflow;  // the ops of a graph share their names with the functions that compute them

// Where a run finds its memory. Device addresses throughout.
struct Frame {
  unsigned char* const* values;  // by ValueId
  unsigned char* scratch;        // of the running op
  int32_t* faults;               // [faults of the program], zero before the run
  cudaStream_t stream;

  template <class T = float>
  T* at(ValueId id) const {
    return reinterpret_cast<T*>(values[id]);
  }
  template <class T>
  T* scratch_at(int64_t offset) const {
    return reinterpret_cast<T*>(scratch + offset);
  }
};

struct CompiledOp {
  std::function<void(const Frame&)> run;
  std::function<int64_t()> scratch_bytes = [] { return int64_t{0}; };  // once the weights are there
};

// Counts what an op needs beside its values; kernels want 16 bytes, whole lines are 256.
class Scratch {
 public:
  int64_t Take(int64_t bytes) {
    const int64_t offset = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return offset;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

inline int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <class T>
constexpr Element kElementOf = sizeof(T) == 2 ? Element::kBf16 : Element::kFloat;

// What an op may ask for while it is compiled.
class Compiler {
 public:
  Compiler(const FusedGraph& fused, CudaWeightStore& store, Precision precision)
      : fused(fused), precision(precision), card(store.card().shape()), store_(store) {}

  const GraphValue& value(ValueId id) const { return fused.graph.values[id]; }
  Element element(ValueId id) const { return fused.elements[id]; }
  bool bf16() const { return precision == Precision::kBf16; }
  bool IsBf16(ValueId id) const { return element(id) == Element::kBf16; }

  template <class T>
  std::shared_ptr<Weight<T>> Request(const std::string& packing, const std::vector<WeightPart>& parts,
                                     typename Weight<T>::Packer packer) {
    auto weight = store_.Request<T>(packing, parts, std::move(packer));
    weights_.push_back(weight);
    return weight;
  }
  // fp32 as in the checkpoint, zeros behind it up to a multiple of `pad` elements.
  std::shared_ptr<Weight<DeviceArray>> RequestArray(const std::vector<WeightPart>& parts, int64_t pad = 1);

  // A place of Frame::faults. A run that leaves it other than zero throws InvalidArgument with this message.
  int AddFault(const std::string& message) {
    faults_.push_back(message);
    return static_cast<int>(faults_.size()) - 1;
  }

  const std::vector<std::shared_ptr<WeightEntry>>& weights() const { return weights_; }
  const std::vector<std::string>& faults() const { return faults_; }

  const FusedGraph& fused;
  const Precision precision;
  const CardShape card;

 private:
  CudaWeightStore& store_;
  std::vector<std::shared_ptr<WeightEntry>> weights_;
  std::vector<std::string> faults_;
};

// What a kernel reads: a value where it lies or, when the kernel wants another type or rows padded with zeros, a copy in the
// op's scratch.
template <class T>
class Reading {
 public:
  Reading(const Compiler& compiler, ValueId id, int64_t row_multiple, Scratch& scratch)
      : id_(id),
        from_(compiler.element(id)),
        rows_(compiler.value(id).Rows()),
        columns_(compiler.value(id).Last()),
        stride_(RoundUp(columns_, row_multiple)) {
    if (from_ != kElementOf<T> || stride_ != columns_) offset_ = scratch.Take(rows_ * stride_ * sizeof(T));
  }

  int64_t stride() const { return stride_; }  // elements from row to row

  const T* In(const Frame& frame) const;

 private:
  ValueId id_;
  Element from_;
  int64_t rows_, columns_, stride_;
  int64_t offset_ = -1;  // of the copy
};

// What a kernel writes, likewise: copied from the scratch to the value once it is there.
template <class T>
class Writing {
 public:
  Writing(const Compiler& compiler, ValueId id, int64_t row_multiple, Scratch& scratch)
      : id_(id),
        to_(compiler.element(id)),
        rows_(compiler.value(id).Rows()),
        columns_(compiler.value(id).Last()),
        stride_(RoundUp(columns_, row_multiple)) {
    if (to_ != kElementOf<T> || stride_ != columns_) offset_ = scratch.Take(rows_ * stride_ * sizeof(T));
  }

  T* In(const Frame& frame) const { return offset_ < 0 ? frame.at<T>(id_) : frame.scratch_at<T>(offset_); }
  void Finish(const Frame& frame) const;

 private:
  ValueId id_;
  Element to_;
  int64_t rows_, columns_, stride_;
  int64_t offset_ = -1;
};

// Where the moments of a value lie, if anybody takes them.
struct MomentsPlace {
  ValueId id = kNoValue;
  int pieces = 0, quads = 0;

  MomentsPlace(const Compiler& compiler, ValueId moments) : id(moments) {
    if (id == kNoValue) return;
    pieces = static_cast<int>(compiler.value(id).shape[1]);
    quads = static_cast<int>(compiler.value(id).shape[3]);
  }
  Moments In(const Frame& frame) const {
    return id == kNoValue ? Moments{} : Moments{frame.at<float>(id), pieces, quads};
  }
};

[[noreturn]] void Unsupported(const std::string& what);

CompiledOp Compile(const ops::PixelsToFloat& op, Compiler& compiler);
CompiledOp Compile(const ops::FloatToPixels& op, Compiler& compiler);
CompiledOp Compile(const ops::ScaleInput& op, Compiler& compiler);
CompiledOp Compile(const ops::Conv2d& op, Compiler& compiler);
CompiledOp Compile(const ops::Linear& op, Compiler& compiler);
CompiledOp Compile(const ops::GroupNorm& op, Compiler& compiler);
CompiledOp Compile(const ops::LayerNorm& op, Compiler& compiler);
CompiledOp Compile(const ops::Attention& op, Compiler& compiler);
CompiledOp Compile(const ops::PrependToken& op, Compiler& compiler);
CompiledOp Compile(const ops::AddTable& op, Compiler& compiler);
CompiledOp Compile(const ops::SliceTokens& op, Compiler& compiler);
CompiledOp Compile(const ops::SliceChannels& op, Compiler& compiler);
CompiledOp Compile(const ops::ConcatChannels& op, Compiler& compiler);
CompiledOp Compile(const ops::Reshape& op, Compiler& compiler);
CompiledOp Compile(const ops::ResizeBicubic& op, Compiler& compiler);
CompiledOp Compile(const ops::MultiscaleEncode& op, Compiler& compiler);
CompiledOp Compile(const ops::MultiscaleDecode& op, Compiler& compiler);

}  // namespace tokenflow::cuda
