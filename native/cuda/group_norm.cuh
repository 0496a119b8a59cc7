// Group normalisation over [images][pixels][channels]; see group_norm.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

struct GroupNormShape {
  int64_t images;
  int pixels, channels, groups;  // channels a multiple of groups, at most kMaxNormChannels
};
constexpr int kMaxNormChannels = 2048;

size_t GroupNormWorkspaceBytes(const GroupNormShape& shape);

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias over each image and group, biased variance, then swish if asked.
// In and Out are float or uint16_t (bf16); y may be x when they are the same. Pixels have their channels padded with zeros to
// the next multiple of 8.
template <class In, class Out>
void GroupNorm(const GroupNormShape& shape, const In* x, const float* weight, const float* bias,
               float epsilon, bool swish, Out* y, void* workspace, cudaStream_t stream);

}  // namespace tokenflow::cuda
