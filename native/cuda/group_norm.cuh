// Group normalisation over [images][pixels][channels]; see group_norm.cu.
#pragma once
#include "launch.cuh"
#include "moments.cuh"

namespace tokenflow::cuda {

struct GroupNormShape {
  int64_t images;
  int pixels, channels, groups;  // channels a multiple of groups, at most kMaxNormChannels
};
constexpr int kMaxNormChannels = 2048;

size_t GroupNormWorkspaceBytes(const GroupNormShape& shape);

// The group norm as a scale and a shift per image and channel: y = x scale + shift. Padding has zeros.
struct Scales {
  float* scale;  // [images][channels, padded to a multiple of 8]
  float* shift;
};
int64_t ScaleElements(const GroupNormShape& shape);  // of each of the two

// From the map itself, or from the moments that its producer left (groups of whole quads, channels a multiple of 8).
template <class In>
void GroupNormScales(const GroupNormShape& shape, const In* x, const float* weight, const float* bias,
                     float epsilon, const Scales& scales, void* workspace, cudaStream_t stream);
void GroupNormScales(const GroupNormShape& shape, const Moments& moments, const float* weight,
                     const float* bias, float epsilon, const Scales& scales, cudaStream_t stream);

// y = x scale + shift, then swish if asked.
template <class In, class Out>
void ApplyGroupNorm(const GroupNormShape& shape, const In* x, const Scales& scales, bool swish, Out* y,
                    cudaStream_t stream);

// All of it: y = (x - mean) / sqrt(variance + epsilon) * weight + bias over each image and group, biased variance, then swish if asked.
// In and Out are float or uint16_t (bf16); y may be x when they are the same. Pixels have their channels padded with zeros to
// the next multiple of 8.
template <class In, class Out>
void GroupNorm(const GroupNormShape& shape, const In* x, const float* weight, const float* bias,
               float epsilon, bool swish, Out* y, void* workspace, cudaStream_t stream);

}  // namespace tokenflow::cuda
