// linear and conv2d: which kernel, how its weights are packed, and what pads its operands to 16 bytes.
//
// Weights are [columns][depth], depth contiguous and padded with zeros like the rows it meets; of a convolution the depth is
// (ky, kx, c) with every pixel's channels padded. An f32 program multiplies in fp32 chains (sgemm.cu), a bf16 one on tensor
// cores (gemm.cu; halo_conv.cu where a group norm is applied to what is loaded).
#include <algorithm>
#include <type_traits>

#include "gemm.cuh"
#include "halo_conv.cuh"
#include "host_bf16.h"
#include "op.h"
#include "sgemm.cuh"

namespace tokenflow::cuda {

namespace {

template <class T>
constexpr int64_t kChunk = 16 / sizeof(T);

void Store(uint16_t* to, float value) {
  *to = RoundToBf16(value);
}
void Store(float* to, float value) {
  *to = value;
}

// [columns][channels][taps] to [columns][taps][stride]: a matrix has one tap.
template <class T>
Packed<DeviceArray> PackColumns(const std::vector<WeightData>& parts, int64_t columns, int64_t channels,
                                int64_t taps, int64_t stride) {
  std::vector<T> packed(columns * taps * stride, T{});
  int64_t column = 0;
  for (const WeightData& part : parts) {
    const int64_t count = part.count / (channels * taps);
    for (int64_t i = 0; i < count && part.data != nullptr; i++) {
      const float* from = part.data + i * channels * taps;
      T* to = packed.data() + (column + i) * taps * stride;
      for (int64_t c = 0; c < channels; c++) {
        for (int64_t tap = 0; tap < taps; tap++) Store(to + tap * stride + c, from[c * taps + tap]);
      }
    }
    column += count;
  }
  const auto bytes = static_cast<int64_t>(packed.size() * sizeof(T));
  return {std::make_shared<DeviceArray>(Upload(packed)), bytes};
}

template <class T>
std::shared_ptr<Weight<DeviceArray>> RequestColumns(Compiler& compiler, const std::vector<WeightPart>& parts,
                                                    int64_t columns, int64_t channels, int64_t taps) {
  const int64_t stride = RoundUp(channels, kChunk<T>);
  const std::string packing = std::string("columns:") + (sizeof(T) == 2 ? "bf16:" : "f32:") +
                              std::to_string(taps) + ":" + std::to_string(channels);
  return compiler.Request<DeviceArray>(packing, parts, [=](const std::vector<WeightData>& data) {
    return PackColumns<T>(data, columns, channels, taps, stride);
  });
}

// The two kernels under one name.
template <class Rows>
void Multiply(const Rows& a, const PackedColumns<float>& w, int count, const Epilogue& epilogue,
              const CardShape& card, float* y, int64_t image_elements, cudaStream_t stream) {
  Sgemm(a, w, count, epilogue, card.multiprocessors, ResultRows<float>{y, w.columns, {1, image_elements, 0}},
        stream);
}
template <class Rows, class Out>
void Multiply(const Rows& a, const PackedColumns<uint16_t>& w, int count, const Epilogue& epilogue,
              const CardShape& card, Out* y, int64_t image_elements, cudaStream_t stream) {
  Gemm(a, w, count, epilogue, ChooseGemmTile(RowsOf(a), w.columns, count, card.multiprocessors),
       ResultRows<Out>{y, w.columns, {1, image_elements, 0}}, w.columns, stream);
}

MomentsPlace TakenFrom(const Compiler& compiler, ValueId y) {
  const auto it = compiler.fused.moments.find(y);
  return {compiler, it == compiler.fused.moments.end() ? kNoValue : it->second};
}

// One product: `rows_of` makes the left matrix out of the address of x. T is the type of the operands, Out of the result.
template <class T, class Out, class RowsOfX>
std::function<void(const Frame&)> Product(const Reading<T>& x, RowsOfX rows_of,
                                          std::shared_ptr<Weight<DeviceArray>> weight,
                                          std::shared_ptr<Weight<DeviceArray>> bias, Activation activation,
                                          ValueId residual, ValueId y, int columns, int64_t depth, int count,
                                          int64_t image_elements, const Compiler& compiler) {
  return [=, moments = TakenFrom(compiler, y), card = compiler.card](const Frame& frame) {
    const Epilogue epilogue{bias == nullptr ? nullptr : (*bias)->data(), false, activation,
                            residual == kNoValue ? nullptr : frame.at<const void>(residual),
                            moments.In(frame)};
    Multiply(rows_of(x.In(frame)), PackedColumns<T>{(*weight)->template data<T>(), columns, depth, {}}, count,
             epilogue, card, frame.at<Out>(y), image_elements, frame.stream);
  };
}

template <class T>
CompiledOp CompileLinear(const ops::Linear& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), depth = compiler.value(op.x).Last();
  const int64_t columns = compiler.value(op.y).Last();
  if (rows > INT32_MAX || columns > INT32_MAX) Unsupported("a product of more than 2^31 rows or columns");
  Scratch scratch;
  const Reading<T> x(compiler, op.x, kChunk<T>, scratch);
  const auto weight = RequestColumns<T>(compiler, EqualParts(op.weight, columns * depth), columns, depth, 1);
  const auto bias = op.bias.empty() ? nullptr : compiler.RequestArray(EqualParts(op.bias, columns));
  const int64_t stride = x.stride();
  // One matrix for all images, unless the moments of each are wanted.
  const int count =
      compiler.fused.moments.count(op.y) != 0 ? static_cast<int>(compiler.value(op.y).shape[0]) : 1;
  const int64_t matrix_rows = rows / std::max(count, 1);
  const auto rows_of = [=](const T* p) {
    return MatrixRows<T>{
        p, static_cast<int>(matrix_rows), static_cast<int>(stride), stride, {1, matrix_rows * stride, 0}};
  };
  const auto product = [&](auto out) {
    return Product<T, decltype(out)>(x, rows_of, weight, bias, op.activation, op.residual, op.y,
                                     static_cast<int>(columns), stride, count, matrix_rows * columns,
                                     compiler);
  };
  CompiledOp compiled;
  if constexpr (std::is_same_v<T, uint16_t>) {
    compiled.run = compiler.IsBf16(op.y) ? product(uint16_t{}) : product(float{});
  } else {
    compiled.run = product(float{});
  }
  compiled.scratch_bytes = [bytes = scratch.bytes()] { return bytes; };
  return compiled;
}

// A convolution that normalises what it loads (norm_fusion.h).
template <class Out>
CompiledOp CompileHaloConv(const ops::Conv2d& op, const FusedGraph::Applied& norm, Compiler& compiler) {
  const std::vector<int64_t>& shape = compiler.value(norm.x).shape;
  const int images = static_cast<int>(shape[0]), height = static_cast<int>(shape[1]),
            width = static_cast<int>(shape[2]), channels = static_cast<int>(shape[3]);
  const int64_t columns = compiler.value(op.y).Last();
  const auto weight =
      RequestColumns<uint16_t>(compiler, {{op.weight, columns * channels * 9}}, columns, channels, 9);
  const auto bias = op.bias.empty() ? nullptr : compiler.RequestArray({{op.bias, columns}});
  const HaloTile tile =
      ChooseHaloTile(height, width, static_cast<int>(columns), images, compiler.card.multiprocessors);
  CompiledOp compiled;
  compiled.run = [=, moments = TakenFrom(compiler, op.y)](const Frame& frame) {
    float* const scales = frame.at<float>(norm.scales);
    const NormedMap map{frame.at<const uint16_t>(norm.x),
                        height,
                        width,
                        channels,
                        {scales, scales + static_cast<int64_t>(images) * channels},
                        norm.swish};
    const Epilogue epilogue{bias == nullptr ? nullptr : (*bias)->data(), false, op.activation,
                            op.residual == kNoValue ? nullptr : frame.at<const void>(op.residual),
                            moments.In(frame)};
    HaloConv(map, {(*weight)->template data<uint16_t>(), static_cast<int>(columns), 9 * channels, {}}, images,
             epilogue, tile,
             ResultRows<Out>{frame.at<Out>(op.y), columns, {1, int64_t{height} * width * columns, 0}},
             frame.stream);
  };
  return compiled;
}

template <class T>
CompiledOp CompileConv2d(const ops::Conv2d& op, Compiler& compiler) {
  const std::vector<int64_t>& shape = compiler.value(op.x).shape;
  const std::vector<int64_t>& result = compiler.value(op.y).shape;
  const int64_t channels = shape[3], columns = result[3], taps = op.kernel * op.kernel;
  Scratch scratch;
  const Reading<T> x(compiler, op.x, kChunk<T>, scratch);
  const int64_t stride = x.stride();
  using Window = Source<WindowRows<T>, 1>;
  if (std::max(shape[1], shape[2]) * op.upsample > Window::kMaxExtent ||
      std::max(op.padding[0], op.padding[1]) > Window::kBias || shape[1] * shape[2] * stride > INT32_MAX ||
      taps * stride > INT32_MAX) {
    Unsupported("a convolution over a map of " + std::to_string(shape[1]) + " x " + std::to_string(shape[2]) +
                " x " + std::to_string(channels) + " with a padding of " + std::to_string(op.padding[0]));
  }
  const auto weight =
      RequestColumns<T>(compiler, {{op.weight, columns * channels * taps}}, columns, channels, taps);
  const auto bias = op.bias.empty() ? nullptr : compiler.RequestArray({{op.bias, columns}});
  WindowRows<T> window{};
  window.height = static_cast<int>(shape[1]), window.width = static_cast<int>(shape[2]);
  window.channels = static_cast<int>(stride);
  window.out_height = static_cast<int>(result[1]), window.out_width = static_cast<int>(result[2]);
  window.kernel = static_cast<int>(op.kernel), window.stride = static_cast<int>(op.stride);
  window.top = static_cast<int>(op.padding[0]), window.left = static_cast<int>(op.padding[1]);
  window.upsample = op.upsample == 2 ? 1 : 0;
  const auto rows_of = [window](const T* p) {
    WindowRows<T> rows = window;
    rows.x = p;
    return rows;
  };
  const auto product = [&](auto out) {
    return Product<T, decltype(out)>(x, rows_of, weight, bias, op.activation, op.residual, op.y,
                                     static_cast<int>(columns), taps * stride, static_cast<int>(shape[0]),
                                     result[1] * result[2] * columns, compiler);
  };
  CompiledOp compiled;
  if constexpr (std::is_same_v<T, uint16_t>) {
    compiled.run = compiler.IsBf16(op.y) ? product(uint16_t{}) : product(float{});
  } else {
    compiled.run = product(float{});
  }
  compiled.scratch_bytes = [bytes = scratch.bytes()] { return bytes; };
  return compiled;
}

}  // namespace

CompiledOp Compile(const ops::Linear& op, Compiler& compiler) {
  return compiler.bf16() ? CompileLinear<uint16_t>(op, compiler) : CompileLinear<float>(op, compiler);
}

CompiledOp Compile(const ops::Conv2d& op, Compiler& compiler) {
  const auto norm = compiler.fused.applied.find(op.x);
  if (norm != compiler.fused.applied.end()) {
    return compiler.IsBf16(op.y) ? CompileHaloConv<uint16_t>(op, norm->second, compiler)
                                 : CompileHaloConv<float>(op, norm->second, compiler);
  }
  return compiler.bf16() ? CompileConv2d<uint16_t>(op, compiler) : CompileConv2d<float>(op, compiler);
}

}  // namespace tokenflow::cuda
