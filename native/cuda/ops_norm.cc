// group_norm, layer_norm and attention: types and scratch for their kernels.
#include "attention.cuh"
#include "attention_matrix.cuh"
#include "group_norm.cuh"
#include "layer_norm.cuh"
#include "op.h"

namespace tokenflow::cuda {

namespace {

constexpr int64_t kOctet = 8;  // the norms read eight channels at a time

template <class In, class Out>
CompiledOp CompileGroupNorm(const ops::GroupNorm& op, Compiler& compiler) {
  const GraphValue& value = compiler.value(op.x);
  const int64_t channels = value.Last(), images = value.shape[0], pixels = value.Rows() / images;
  if (channels > kMaxNormChannels || pixels > INT32_MAX) {
    Unsupported("group normalisation of " + std::to_string(channels) + " channels over " +
                std::to_string(pixels) + " pixels");
  }
  const GroupNormShape shape{images, static_cast<int>(pixels), static_cast<int>(channels),
                             static_cast<int>(op.groups)};
  Scratch scratch;
  const MomentsPlace moments(compiler, compiler.fused.MomentsOf(op));
  const auto weight = compiler.RequestArray({{op.weight, channels}}, kOctet);
  const auto bias = compiler.RequestArray({{op.bias, channels}}, kOctet);
  // Statistics to scale and shift, either way. `x` is asked for where it is looked at.
  const auto finish = [=](const Frame& frame, const In* x, const Scales& scales, void* workspace) {
    const float *w = (*weight)->data(), *b = (*bias)->data();
    if (moments.id != kNoValue) {
      GroupNormScales(shape, moments.In(frame), w, b, op.epsilon, scales, frame.stream);
    } else {
      GroupNormScales(shape, x, w, b, op.epsilon, scales, workspace, frame.stream);
    }
  };
  const int64_t workspace =
      moments.id == kNoValue ? scratch.Take(static_cast<int64_t>(GroupNormWorkspaceBytes(shape))) : 0;
  CompiledOp compiled;
  const auto applied = compiler.fused.applied.find(op.y);
  if (applied != compiler.fused.applied.end()) {
    const ValueId id = applied->second.scales;
    compiled.run = [=](const Frame& frame) {
      float* const scales = frame.at<float>(id);
      finish(frame, frame.at<const In>(op.x), {scales, scales + ScaleElements(shape)},
             frame.scratch_at<void>(workspace));
    };
  } else {
    const Reading<In> x(compiler, op.x, kOctet, scratch);
    const Writing<Out> y(compiler, op.y, kOctet, scratch);
    const int64_t scales_at = scratch.Take(2 * ScaleElements(shape) * static_cast<int64_t>(sizeof(float)));
    compiled.run = [=](const Frame& frame) {
      const In* const from = x.In(frame);
      float* const scale = frame.scratch_at<float>(scales_at);
      const Scales scales{scale, scale + ScaleElements(shape)};
      finish(frame, from, scales, frame.scratch_at<void>(workspace));
      ApplyGroupNorm(shape, from, scales, op.swish, y.In(frame), frame.stream);
      y.Finish(frame);
    };
  }
  compiled.scratch_bytes = [bytes = scratch.bytes()] { return bytes; };
  return compiled;
}

template <class Out>
CompiledOp CompileLayerNorm(const ops::LayerNorm& op, Compiler& compiler) {
  const int64_t rows = compiler.value(op.x).Rows(), channels = compiler.value(op.x).Last();
  if (channels > INT32_MAX / 2) Unsupported("layer normalisation of 2^30 channels");
  Scratch scratch;
  const Reading<float> x(compiler, op.x, kOctet, scratch);
  const Writing<Out> y(compiler, op.y, kOctet, scratch);
  const auto weight = compiler.RequestArray({{op.weight, channels}}, kOctet);
  const auto bias = compiler.RequestArray({{op.bias, channels}}, kOctet);
  CompiledOp compiled;
  compiled.scratch_bytes = [bytes = scratch.bytes()] { return bytes; };
  compiled.run = [=](const Frame& frame) {
    LayerNorm(x.In(frame), rows, static_cast<int>(channels), (*weight)->data(), (*bias)->data(), op.epsilon,
              y.In(frame), frame.stream);
    y.Finish(frame);
  };
  return compiled;
}

// T float: by way of the scores. uint16_t: bf16, in tiles where the heads are narrow enough.
template <class T>
CompiledOp CompileAttention(const ops::Attention& op, Compiler& compiler) {
  const std::vector<int64_t>& shape = compiler.value(op.y).shape;
  const int64_t images = shape[0];
  if (shape[1] > INT32_MAX / 2 || shape[2] > INT32_MAX / 8) {
    Unsupported("attention over " + std::to_string(shape[1]) + " tokens of " + std::to_string(shape[2]) +
                " channels");
  }
  const int tokens = static_cast<int>(shape[1]), heads = static_cast<int>(op.heads);
  const int width = static_cast<int>(shape[2] / op.heads), multiprocessors = compiler.card.multiprocessors;
  Scratch scratch;
  const Reading<T> x(compiler, op.x, 1, scratch);
  const Writing<T> y(compiler, op.y, 1, scratch);
  const bool tiles = sizeof(T) == 2 && width <= kMaxHeadWidth;
  const int64_t workspace =
      tiles ? 0 : scratch.Take(static_cast<int64_t>(AttentionMatrixBytes<T>(images, tokens, heads, width)));
  CompiledOp compiled;
  compiled.scratch_bytes = [bytes = scratch.bytes()] { return bytes; };
  compiled.run = [=, scale = op.scale](const Frame& frame) {
    const T* qkv = x.In(frame);
    T* result = y.In(frame);
    if constexpr (sizeof(T) == 2) {
      if (tiles) Attention(qkv, images, tokens, heads, width, scale, result, frame.stream);
    }
    if (!tiles) {
      AttentionMatrix(qkv, images, tokens, heads, width, scale, multiprocessors, result,
                      frame.scratch_at<void>(workspace), frame.stream);
    }
    y.Finish(frame);
  };
  return compiled;
}

}  // namespace

CompiledOp Compile(const ops::GroupNorm& op, Compiler& compiler) {
  const bool in = compiler.IsBf16(op.x), out = compiler.IsBf16(op.y);
  if (in && out) return CompileGroupNorm<uint16_t, uint16_t>(op, compiler);
  if (in) return CompileGroupNorm<uint16_t, float>(op, compiler);
  if (out) return CompileGroupNorm<float, uint16_t>(op, compiler);
  return CompileGroupNorm<float, float>(op, compiler);
}

CompiledOp Compile(const ops::LayerNorm& op, Compiler& compiler) {
  return compiler.IsBf16(op.y) ? CompileLayerNorm<uint16_t>(op, compiler)
                               : CompileLayerNorm<float>(op, compiler);
}

CompiledOp Compile(const ops::Attention& op, Compiler& compiler) {
  const int64_t width = compiler.value(op.y).Last() / op.heads;
  if (compiler.bf16() && width % 8 == 0) return CompileAttention<uint16_t>(op, compiler);
  if (width % 4 != 0) {
    Unsupported("attention heads " + std::to_string(width) + " wide (a multiple of 4 is needed)");
  }
  return CompileAttention<float>(op, compiler);
}

}  // namespace tokenflow::cuda
