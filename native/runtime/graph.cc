#include "runtime/graph.h"

#include <cmath>
#include <functional>
#include <limits>

#include "runtime/error.h"

namespace tokenflow {

int64_t GraphValue::Elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

int64_t GraphValue::Bytes() const {
  return Elements() * (dtype == DType::kU8 ? 1 : 4);
}

namespace {

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

std::string Show(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

const char* Show(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kU8 ? "u8" : "i32";
}

int64_t TokenCount(const std::vector<int64_t>& scales) {
  int64_t count = 0;
  for (const int64_t scale : scales) count += scale * scale;
  return count;
}

// Checks one op; its messages begin with where it stands in the graph.
class OpCheck {
 public:
  OpCheck(const Graph& graph, const std::vector<bool>& defined, size_t index)
      : graph_(graph), defined_(defined), where_("graph.ops[" + std::to_string(index) + "]") {
    where_ += std::string(" (") + OpName(graph.ops[index]) + ")";
  }

  void operator()(const PixelsToFloat& op) const {
    Map("x", op.x, DType::kU8);
    Is("y", op.y, Value("x", op.x).shape);
  }
  void operator()(const FloatToPixels& op) const {
    Map("x", op.x);
    Is("y", op.y, Value("x", op.x).shape, DType::kU8);
  }
  void operator()(const ScaleInput& op) const {
    Map("x", op.x);
    Is("y", op.y, Value("x", op.x).shape);
    Named("shift", op.shift);
    Named("scale", op.scale);
  }
  void operator()(const Conv2d& op) const {
    Map("x", op.x);
    const std::vector<int64_t>& x = Value("x", op.x).shape;
    Within("kernel", op.kernel, 1, 1024);
    Within("stride", op.stride, 1, 1024);
    Within("upsample", op.upsample, 1, 2);
    for (const int64_t edge : op.padding) Within("padding", edge, 0, 1024);
    const int64_t height = x[1] * op.upsample + op.padding[0] + op.padding[2] - op.kernel;
    const int64_t width = x[2] * op.upsample + op.padding[1] + op.padding[3] - op.kernel;
    if (height < 0 || width < 0) Fail("a map of at least kernel x kernel for x", Show(x));
    Is("y", op.y, {x[0], height / op.stride + 1, width / op.stride + 1, Value("y", op.y).Last()});
    Named("weight", op.weight);
    Residual(op.residual, op.y);
  }
  void operator()(const Linear& op) const {
    Float("x", op.x);
    std::vector<int64_t> y = Value("x", op.x).shape;
    y.back() = Value("y", op.y).Last();
    Is("y", op.y, y);
    if (op.weight.empty()) Fail("at least one name for weight", "none");
    for (const std::string& name : op.weight) Named("weight", name);
    Parts("weight", op.weight, y.back());
    if (!op.bias.empty()) Parts("bias", op.bias, y.back());
    Residual(op.residual, op.y);
  }
  void operator()(const GroupNorm& op) const {
    Float("x", op.x);
    const GraphValue& x = Value("x", op.x);
    if (x.shape.size() != 3 && x.shape.size() != 4) Fail("[B,H,W,C] or [B,L,C] for x", Show(x.shape));
    Is("y", op.y, x.shape);
    Within("groups", op.groups, 1, x.Last());
    if (x.Last() % op.groups != 0) {
      Fail("groups that divide the channels", std::to_string(op.groups) + " for " + Show(x.shape));
    }
    Norm(op.weight, op.bias, op.epsilon);
  }
  void operator()(const LayerNorm& op) const {
    Float("x", op.x);
    Is("y", op.y, Value("x", op.x).shape);
    Norm(op.weight, op.bias, op.epsilon);
  }
  void operator()(const Attention& op) const {
    Tokens("x", op.x);
    std::vector<int64_t> y = Value("x", op.x).shape;
    if (y[2] % 3 != 0) Fail("q, k and v side by side in x", Show(y));
    y[2] /= 3;
    Is("y", op.y, y);
    Within("heads", op.heads, 1, y[2]);
    if (y[2] % op.heads != 0) Fail("heads that divide the channels", std::to_string(op.heads));
    if (!std::isfinite(op.scale)) Fail("a finite scale", std::to_string(op.scale));
  }
  void operator()(const PrependToken& op) const {
    Tokens("x", op.x);
    std::vector<int64_t> y = Value("x", op.x).shape;
    y[1]++;
    Is("y", op.y, y);
    Named("token", op.token);
  }
  void operator()(const AddTable& op) const {
    Tokens("x", op.x);
    Is("y", op.y, Value("x", op.x).shape);
    Named("table", op.table);
  }
  void operator()(const SliceTokens& op) const {
    Tokens("x", op.x);
    std::vector<int64_t> y = Value("x", op.x).shape;
    Range(op.start, op.count, y[1]);
    y[1] = op.count;
    Is("y", op.y, y);
  }
  void operator()(const SliceChannels& op) const {
    Float("x", op.x);
    std::vector<int64_t> y = Value("x", op.x).shape;
    Range(op.start, op.count, y.back());
    y.back() = op.count;
    Is("y", op.y, y);
  }
  void operator()(const ConcatChannels& op) const {
    if (op.xs.empty()) Fail("at least one value for xs", "none");
    std::vector<int64_t> y = Value("xs", op.xs[0]).shape;
    y.back() = 0;
    for (const ValueId x : op.xs) {
      std::vector<int64_t> shape = Value("xs", x).shape;
      y.back() += shape.back();
      shape.back() = Value("xs", op.xs[0]).Last();
      Float("xs", x);
      if (shape != Value("xs", op.xs[0]).shape) Fail("values that agree but in channels for xs", Show(shape));
    }
    Is("y", op.y, y);
  }
  void operator()(const Reshape& op) const {
    const GraphValue& x = Value("x", op.x);
    const GraphValue& y = Value("y", op.y);
    Defined("x", op.x);
    if (y.dtype != x.dtype || y.Elements() != x.Elements() || y.shape[0] != x.shape[0]) {
      Fail("the type, batch and number of elements of " + Show(x.shape) + " for y", Show(y.shape));
    }
  }
  void operator()(const ResizeBicubic& op) const {
    Map("x", op.x);
    const std::vector<int64_t>& x = Value("x", op.x).shape;
    Is("y", op.y, {x[0], op.height, op.width, x[3]});
  }
  void operator()(const MultiscaleEncode& op) const {
    Map("x", op.x);
    const std::vector<int64_t>& x = Value("x", op.x).shape;
    Codebooks(op.codebooks, op.scales);
    if (x[1] != op.scales.back() || x[2] != op.scales.back()) {
      Fail("a square map of the last scale, " + std::to_string(op.scales.back()) + ", for x", Show(x));
    }
    Is("tokens", op.tokens, {x[0], TokenCount(op.scales)}, DType::kI32);
    Is("sum", op.sum, x);
    if (op.sum == op.tokens) Fail("two values for tokens and sum", "one");
  }
  void operator()(const MultiscaleDecode& op) const {
    Defined("tokens", op.tokens);
    const GraphValue& tokens = Value("tokens", op.tokens);
    Codebooks(op.codebooks, op.scales);
    Within("grid", op.grid, op.scales.back(), 4096);
    if (tokens.dtype != DType::kI32 || tokens.shape.size() != 2 || tokens.shape[1] != TokenCount(op.scales)) {
      Fail("i32 [B, " + std::to_string(TokenCount(op.scales)) + "] for tokens",
           std::string(Show(tokens.dtype)) + " " + Show(tokens.shape));
    }
    Is("y", op.y, {tokens.shape[0], op.grid, op.grid, Value("y", op.y).Last()});
  }

 private:
  [[noreturn]] void Fail(const std::string& expected, const std::string& received) const {
    throw InvalidArgument(where_ + ": expected " + expected + " but received " + received);
  }
  const GraphValue& Value(const std::string& field, ValueId id) const {
    if (id < 0 || id >= static_cast<int64_t>(graph_.values.size())) {
      Fail("the number of a value for " + field, std::to_string(id));
    }
    return graph_.values[id];
  }
  void Defined(const std::string& field, ValueId id) const {
    Value(field, id);
    if (!defined_[id])
      Fail("an input or the result of an earlier op for " + field, "value " + std::to_string(id));
  }
  void Float(const std::string& field, ValueId id) const { Ranked(field, id, 0, DType::kF32); }
  void Tokens(const std::string& field, ValueId id) const { Ranked(field, id, 3, DType::kF32); }
  void Map(const std::string& field, ValueId id, DType dtype = DType::kF32) const {
    Ranked(field, id, 4, dtype);
  }
  void Ranked(const std::string& field, ValueId id, size_t rank, DType dtype) const {
    Defined(field, id);
    const GraphValue& value = graph_.values[id];
    if (value.dtype == dtype && (rank == 0 ? value.shape.size() >= 2 : value.shape.size() == rank)) return;
    Fail(std::string(Show(dtype)) + " of " + (rank == 0 ? "2 axes or more" : std::to_string(rank) + " axes") +
             " for " + field,
         std::string(Show(value.dtype)) + " " + Show(value.shape));
  }
  void Is(const std::string& field, ValueId id, const std::vector<int64_t>& shape,
          DType dtype = DType::kF32) const {
    const GraphValue& value = Value(field, id);
    if (defined_[id])
      Fail("a value of its own for " + field, "value " + std::to_string(id) + ", already computed");
    if (value.shape == shape && value.dtype == dtype) return;
    Fail(std::string(Show(dtype)) + " " + Show(shape) + " for " + field,
         std::string(Show(value.dtype)) + " " + Show(value.shape));
  }
  void Within(const std::string& field, int64_t value, int64_t least, int64_t most) const {
    if (value >= least && value <= most) return;
    Fail(field + " from " + std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
  }
  void Range(int64_t start, int64_t count, int64_t size) const {
    if (start >= 0 && count >= 1 && start <= size && count <= size - start) return;
    Fail("a range within " + std::to_string(size),
         "start " + std::to_string(start) + ", count " + std::to_string(count));
  }
  void Named(const std::string& field, const std::string& name) const {
    if (name.empty()) Fail("the name of a weight for " + field, "''");
  }
  void Parts(const std::string& field, const WeightParts& parts, int64_t columns) const {
    if (columns % static_cast<int64_t>(parts.size()) == 0) return;
    Fail("parts of equal size for " + field,
         std::to_string(parts.size()) + " parts for " + std::to_string(columns) + " channels");
  }
  void Norm(const std::string& weight, const std::string& bias, float epsilon) const {
    Named("weight", weight);
    Named("bias", bias);
    if (!(epsilon >= 0 && epsilon <= 1)) Fail("epsilon from 0 to 1", std::to_string(epsilon));
  }
  void Residual(ValueId residual, ValueId y) const {
    if (residual == kNoValue) return;
    Float("residual", residual);
    if (Value("residual", residual).shape != Value("y", y).shape) {
      Fail(Show(Value("y", y).shape) + " for residual", Show(Value("residual", residual).shape));
    }
  }
  void Codebooks(const std::vector<std::string>& codebooks, const std::vector<int64_t>& scales) const {
    if (codebooks.empty()) Fail("at least one codebook", "none");
    for (const std::string& name : codebooks) Named("codebooks", name);
    if (scales.empty()) Fail("at least one scale", "none");
    int64_t last = 0;
    for (const int64_t scale : scales) {
      Within("scales, ascending,", scale, last + 1, 4096);
      last = scale;
    }
  }

  const Graph& graph_;
  const std::vector<bool>& defined_;
  std::string where_;
};

void CheckValues(const Graph& graph) {
  constexpr int64_t kMost = int64_t{1} << 36;
  int64_t batch = 0;
  for (size_t id = 0; id < graph.values.size(); id++) {
    const std::vector<int64_t>& shape = graph.values[id].shape;
    const std::string where = "graph.values[" + std::to_string(id) + "]";
    if (shape.size() < 2 || shape.size() > 4) {
      throw InvalidArgument(where + ": expected 2 to 4 axes but received " + Show(shape));
    }
    int64_t elements = 1;
    for (const int64_t extent : shape) {
      if (extent < 1 || extent > kMost / elements) {
        throw InvalidArgument(where + ": expected extents over 0 and at most 2^36 elements but received " +
                              Show(shape));
      }
      elements *= extent;
    }
    if (id == 0) batch = shape[0];
    if (shape[0] != batch) {
      throw InvalidArgument(where + ": expected the batch of the other values, " + std::to_string(batch) +
                            ", but received " + Show(shape));
    }
  }
}

void AddShape(std::map<std::string, std::vector<int64_t>>& shapes, const std::string& name,
              const std::vector<int64_t>& shape) {
  if (name.empty()) return;
  const auto [found, added] = shapes.emplace(name, shape);
  if (added || found->second == shape) return;
  throw InvalidArgument("Expected one shape for the weight '" + name + "' but the graph reads it as " +
                        Show(found->second) + " and as " + Show(shape));
}

}  // namespace

const char* OpName(const Op& op) {
  static const char* const kNames[] = {
      "pixels_to_float",   "float_to_pixels",  "scale_input",     "conv2d",        "linear",
      "group_norm",        "layer_norm",       "attention",       "prepend_token", "add_table",
      "slice_tokens",      "slice_channels",   "concat_channels", "reshape",       "resize_bicubic",
      "multiscale_encode", "multiscale_decode"};
  static_assert(std::variant_size_v<Op> == sizeof kNames / sizeof *kNames);
  return kNames[op.index()];
}

Operands OperandsOf(const Op& op) {
  const auto with_residual = [](ValueId x, ValueId residual, ValueId y) {
    if (residual == kNoValue) return Operands{{x}, {y}};
    return Operands{{x, residual}, {y}, residual};
  };
  return std::visit(Overloaded{
                        [&](const Conv2d& o) { return with_residual(o.x, o.residual, o.y); },
                        [&](const Linear& o) { return with_residual(o.x, o.residual, o.y); },
                        [](const ScaleInput& o) {
                          return Operands{{o.x}, {o.y}, o.x};
                        },
                        [](const GroupNorm& o) {
                          return Operands{{o.x}, {o.y}, o.x};
                        },
                        [](const LayerNorm& o) {
                          return Operands{{o.x}, {o.y}, o.x};
                        },
                        [](const AddTable& o) {
                          return Operands{{o.x}, {o.y}, o.x};
                        },
                        [](const ConcatChannels& o) {
                          return Operands{o.xs, {o.y}};
                        },
                        [](const MultiscaleEncode& o) {
                          return Operands{{o.x}, {o.tokens, o.sum}};
                        },
                        [](const MultiscaleDecode& o) {
                          return Operands{{o.tokens}, {o.y}};
                        },
                        [](const auto& o) {
                          return Operands{{o.x}, {o.y}};
                        },
                    },
                    op);
}

std::map<std::string, std::vector<int64_t>> WeightShapes(const Graph& graph) {
  std::map<std::string, std::vector<int64_t>> shapes;
  const auto channels = [&](ValueId id) { return graph.values[id].Last(); };
  const auto parts = [&](const WeightParts& names, std::vector<int64_t> shape) {
    if (names.empty()) return;
    shape[0] /= static_cast<int64_t>(names.size());
    for (const std::string& name : names) AddShape(shapes, name, shape);
  };
  for (const Op& op : graph.ops) {
    std::visit(Overloaded{
                   [&](const ScaleInput& o) {
                     AddShape(shapes, o.shift, {channels(o.x)});
                     AddShape(shapes, o.scale, {channels(o.x)});
                   },
                   [&](const Conv2d& o) {
                     AddShape(shapes, o.weight, {channels(o.y), channels(o.x), o.kernel, o.kernel});
                     AddShape(shapes, o.bias, {channels(o.y)});
                   },
                   [&](const Linear& o) {
                     parts(o.weight, {channels(o.y), channels(o.x)});
                     parts(o.bias, {channels(o.y)});
                   },
                   [&](const GroupNorm& o) {
                     AddShape(shapes, o.weight, {channels(o.x)});
                     AddShape(shapes, o.bias, {channels(o.x)});
                   },
                   [&](const LayerNorm& o) {
                     AddShape(shapes, o.weight, {channels(o.x)});
                     AddShape(shapes, o.bias, {channels(o.x)});
                   },
                   [&](const PrependToken& o) { AddShape(shapes, o.token, {channels(o.x)}); },
                   [&](const AddTable& o) {
                     AddShape(shapes, o.table, {graph.values[o.x].shape[1], channels(o.x)});
                   },
                   [&](const MultiscaleEncode& o) {
                     for (const std::string& name : o.codebooks) AddShape(shapes, name, {0, 0});
                   },
                   [&](const MultiscaleDecode& o) {
                     for (const std::string& name : o.codebooks) AddShape(shapes, name, {0, 0});
                   },
                   [](const auto&) {},
               },
               op);
  }
  return shapes;
}

void CheckGraph(const Graph& graph) {
  CheckValues(graph);
  std::vector<bool> defined(graph.values.size(), false);
  const auto port = [&](const char* kind, const Port& p) {
    if (p.value >= 0 && p.value < static_cast<int64_t>(graph.values.size())) return;
    throw InvalidArgument(std::string("graph.") + kind + "." + p.name +
                          ": expected the number of a value but received " + std::to_string(p.value));
  };
  for (const Port& p : graph.inputs) {
    port("inputs", p);
    if (defined[p.value])
      throw InvalidArgument("graph.inputs: value " + std::to_string(p.value) + " is given twice");
    defined[p.value] = true;
  }
  for (size_t i = 0; i < graph.ops.size(); i++) {
    std::visit(OpCheck(graph, defined, i), graph.ops[i]);
    for (const ValueId y : OperandsOf(graph.ops[i]).writes) {
      if (defined[y]) {
        throw InvalidArgument("graph.ops[" + std::to_string(i) + "]: value " + std::to_string(y) +
                              " is computed twice");
      }
      defined[y] = true;
    }
  }
  if (graph.outputs.empty()) throw InvalidArgument("graph.outputs: expected at least one");
  for (const Port& p : graph.outputs) {
    port("outputs", p);
    if (!defined[p.value]) {
      throw InvalidArgument("graph.outputs." + p.name + ": value " + std::to_string(p.value) +
                            " is never computed");
    }
  }
  WeightShapes(graph);  // one shape for each name
}

}  // namespace tokenflow
