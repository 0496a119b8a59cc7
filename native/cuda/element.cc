#include "element.h"

#include <numeric>

namespace tokenflow::cuda {

namespace {

namespace ops = ::tokenflow;  // the ops share their names with the functions that compute them

// Values that must have one type, joined: the two ends of a reshape, a residual and the result it is added to.
class Groups {
 public:
  explicit Groups(size_t count) : parent_(count) { std::iota(parent_.begin(), parent_.end(), 0); }
  int Find(int value) {
    while (parent_[value] != value) value = parent_[value] = parent_[parent_[value]];
    return value;
  }
  void Join(int a, int b) { parent_[Find(a)] = Find(b); }

 private:
  std::vector<int> parent_;
};

}  // namespace

std::vector<Element> ElementsOf(const Graph& graph, Precision precision) {
  std::vector<Element> elements;
  for (const GraphValue& value : graph.values) {
    elements.push_back(value.dtype == DType::kF32  ? Element::kFloat
                       : value.dtype == DType::kU8 ? Element::kByte
                                                   : Element::kInt);
  }
  if (precision == Precision::kF32) return elements;

  const size_t count = graph.values.size();
  std::vector<bool> able(count, true);
  Groups groups(count);
  for (size_t id = 0; id < count; id++) able[id] = graph.values[id].dtype == DType::kF32;
  for (const Port& port : graph.inputs) able[port.value] = false;
  for (const Port& port : graph.outputs) able[port.value] = false;
  for (const Op& op : graph.ops) {
    if (std::holds_alternative<ops::GroupNorm>(op) || std::holds_alternative<ops::Attention>(op)) continue;
    if (const auto* norm = std::get_if<ops::LayerNorm>(&op)) {
      able[norm->x] = false;
    } else if (const auto* conv = std::get_if<Conv2d>(&op)) {
      if (conv->residual != kNoValue) groups.Join(conv->residual, conv->y);
    } else if (const auto* linear = std::get_if<Linear>(&op)) {
      if (linear->residual != kNoValue) groups.Join(linear->residual, linear->y);
    } else if (const auto* reshape = std::get_if<Reshape>(&op)) {
      groups.Join(reshape->x, reshape->y);
    } else {
      const Operands operands = OperandsOf(op);
      for (const ValueId x : operands.reads) able[x] = false;
      for (const ValueId y : operands.writes) able[y] = false;
    }
  }
  std::vector<bool> whole_group(count, true);
  for (size_t id = 0; id < count; id++) {
    if (!able[id]) whole_group[groups.Find(static_cast<int>(id))] = false;
  }
  for (size_t id = 0; id < count; id++) {
    if (whole_group[groups.Find(static_cast<int>(id))]) elements[id] = Element::kBf16;
  }
  return elements;
}

}  // namespace tokenflow::cuda
