// The statistics of a group normalisation, apart from its application: a convolution that follows can apply
// them while it reads.
#pragma once
#include <cstdint>

namespace tokenflow {

struct GroupNormShape {
  int64_t batch, pixels, channels, groups;
  float epsilon;
};

int64_t GroupStatisticsScratchBytes(const GroupNormShape& shape);

// scale and shift such that x * scale + shift is normalised and has the affine part applied. Sums are taken
// over pieces of a fixed number of pixels, in fp32 around the first pixel, and joined in order in fp64.
void GroupScaleShift(const GroupNormShape& shape,
                     const float* x,       // [batch][pixels][channels]
                     const float* weight,  // [channels]
                     const float* bias,    // [channels]
                     char* scratch,
                     float* scale,   // [batch][channels]
                     float* shift);  // [batch][channels]

}  // namespace tokenflow
