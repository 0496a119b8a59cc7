// A group normalisation up to its application, which a convolution that follows does while it reads.
#pragma once
#include <functional>

#include "cpu/op.h"

namespace tokenflow {

// scale and shift such that x * scale + shift is normalised and has the affine part applied.
struct GroupAffine {
  int64_t floats;         // of scale and of shift: [batch][channels]
  int64_t scratch_bytes;  // scale, then shift, then what the statistics need
  std::function<void(const float* x, char* scratch)> compute;
};

// The statistics come from the convolution that made x where that has gathered them (Compiler::GroupSumsOf);
// otherwise x is read once: sums over pieces of a fixed number of pixels, in fp32 around the first pixel, joined in
// order in fp64.
GroupAffine CompileGroupAffine(const GroupNorm& op, Compiler& compiler);

}  // namespace tokenflow
