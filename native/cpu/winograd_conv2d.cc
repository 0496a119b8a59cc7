// A convolution by Winograd's method, with the normalisation before it and the statistics behind it.
#include "cpu/fusion.h"
#include "cpu/group_norm.h"
#include "cpu/op.h"
#include "cpu/winograd.h"
#include "runtime/parallel.h"

namespace tokenflow {

CompiledOp CompileWinograd(const Conv2d& op, const FusedStep& fused, Compiler& compiler) {
  const ValueId x = fused.norm ? fused.norm->x : op.x;
  const std::vector<int64_t> y = compiler.value(op.y).shape;
  const int64_t in_channels = compiler.value(op.x).Last(), out_channels = y[3];

  std::vector<WeightPart> parts{{op.weight, out_channels * in_channels * 9}};
  if (!op.bias.empty()) parts.push_back({op.bias, out_channels});
  const auto weight =
      compiler.Request<WinogradConv3x3>("winograd", parts, [=](const std::vector<WeightData>& data) {
        auto conv = std::make_shared<const WinogradConv3x3>(in_channels, out_channels, data[0].data,
                                                            data.size() > 1 ? data[1].data : nullptr);
        const int64_t bytes = static_cast<int64_t>(conv->PackedBytes());
        return Packed<WinogradConv3x3>{std::move(conv), bytes};
      });
  const std::optional<GroupAffine> affine =
      fused.norm ? std::optional(CompileGroupAffine(*fused.norm, compiler)) : std::nullopt;
  const auto sums = fused.sum_groups > 0 ? compiler.GatherGroupSums(op.y, fused.sum_groups) : nullptr;

  Conv3x3Call fixed;
  fixed.batch = y[0];
  fixed.height = y[1];
  fixed.width = y[2];
  fixed.upsample = op.upsample == 2;
  fixed.groups = fused.sum_groups;
  fixed.group_sums = sums == nullptr ? nullptr : sums->data();
  const int64_t affine_bytes = affine ? (affine->scratch_bytes + 63) / 64 * 64 : 0;

  CompiledOp compiled;
  compiled.scratch_bytes = [=] {
    return affine_bytes +
           static_cast<int64_t>(WinogradConv3x3::ScratchBytes(fixed, in_channels, out_channels));
  };
  compiled.run = [=](const Frame& frame) {
    Conv3x3Call call = fixed;
    call.x = frame.at(x);
    call.y = frame.at(op.y);
    call.residual = op.residual == kNoValue ? nullptr : frame.at(op.residual);
    if (affine) {
      affine->compute(call.x, frame.scratch);
      call.scale = reinterpret_cast<const float*>(frame.scratch);
      call.shift = call.scale + affine->floats;
    }
    call.scratch = frame.scratch + affine_bytes;
    call.scratch_bytes = WinogradConv3x3::ScratchBytes(fixed, in_channels, out_channels);
    (*weight)->Run(call);
    (void)sums;  // kept alive: `fixed` points into it
  };
  return compiled;
}

}  // namespace tokenflow
