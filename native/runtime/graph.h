// The graph as native code sees it: what lib/graph/ops.ts describes, checked. That file has the meaning of
// every op; this one only its shape in C++.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/activation.h"

namespace tokenflow {

enum class DType { kF32, kU8, kI32 };
enum class Precision { kF32, kBf16 };

using ValueId = int;
constexpr ValueId kNoValue = -1;

struct GraphValue {
  std::vector<int64_t> shape;  // batch first
  DType dtype;

  int64_t Elements() const;
  int64_t Bytes() const;
  int64_t Last() const { return shape.back(); }         // channels
  int64_t Rows() const { return Elements() / Last(); }  // everything but the channels
};

// A checkpoint tensor, or equal parts concatenated along their first axis; "" stands for a part of zeros.
// Empty: there is none.
using WeightParts = std::vector<std::string>;

struct PixelsToFloat {
  ValueId x, y;
};
struct FloatToPixels {
  ValueId x, y;
};
struct ScaleInput {
  ValueId x, y;
  std::string shift, scale;
};
struct Conv2d {
  ValueId x, y;
  std::string weight;  // [Cout][Cin][kernel][kernel]
  std::string bias;    // "": none
  int64_t kernel, stride;
  std::array<int64_t, 4> padding;  // top, left, bottom, right
  int64_t upsample;
  Activation activation;
  ValueId residual;
};
struct Linear {
  ValueId x, y;
  WeightParts weight;  // [Cout][Cin]
  WeightParts bias;
  Activation activation;
  ValueId residual;
};
struct GroupNorm {
  ValueId x, y;
  std::string weight, bias;
  int64_t groups;
  float epsilon;
  bool swish;
};
struct LayerNorm {
  ValueId x, y;
  std::string weight, bias;
  float epsilon;
};
struct Attention {
  ValueId x, y;
  int64_t heads;
  float scale;
};
struct PrependToken {
  ValueId x, y;
  std::string token;
};
struct AddTable {
  ValueId x, y;
  std::string table;
};
struct SliceTokens {
  ValueId x, y;
  int64_t start, count;
};
struct SliceChannels {
  ValueId x, y;
  int64_t start, count;
};
struct ConcatChannels {
  std::vector<ValueId> xs;
  ValueId y;
};
struct Reshape {
  ValueId x, y;
};
struct ResizeBicubic {
  ValueId x, y;
  int64_t height, width;
};
struct MultiscaleEncode {
  ValueId x, tokens, sum;
  std::vector<std::string> codebooks;
  std::vector<int64_t> scales;
};
struct MultiscaleDecode {
  ValueId tokens, y;
  std::vector<std::string> codebooks;
  std::vector<int64_t> scales;
  int64_t grid;
};

using Op = std::variant<PixelsToFloat, FloatToPixels, ScaleInput, Conv2d, Linear, GroupNorm, LayerNorm,
                        Attention, PrependToken, AddTable, SliceTokens, SliceChannels, ConcatChannels,
                        Reshape, ResizeBicubic, MultiscaleEncode, MultiscaleDecode>;

struct Port {
  std::string name;
  ValueId value;
};

struct Graph {
  std::vector<GraphValue> values;
  std::vector<Op> ops;
  std::vector<Port> inputs, outputs;
};

// As ops.ts spells it: "conv2d".
const char* OpName(const Op& op);

struct Operands {
  std::vector<ValueId> reads, writes;
  // The value whose memory the (single) result may take over when nothing reads it later: every backend
  // computes these ops element by element in that operand.
  ValueId in_place = kNoValue;
};
Operands OperandsOf(const Op& op);

// Every weight a graph reads. An extent of 0 is one that the graph leaves open (the number of codes).
std::map<std::string, std::vector<int64_t>> WeightShapes(const Graph& graph);

// Throws Error, naming the op and the field, unless every id, shape and parameter fits: after this nothing in
// a graph can lead a backend out of bounds.
void CheckGraph(const Graph& graph);

}  // namespace tokenflow
