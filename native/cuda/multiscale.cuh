// The multi-scale residual quantiser on the device; see multiscale.cu.
#pragma once
#include <vector>

#include "codebook/resample.h"
#include "launch.cuh"
#include "lookup.cuh"

namespace tokenflow::cuda {

// The tap tables of all scales behind one another, [scale][grid], to be copied to the device once.
std::vector<BicubicUp::Taps> MultiscaleTaps(const std::vector<int>& scales);

size_t MultiscaleWorkspaceBytes(int64_t batch, const std::vector<int>& scales, const CodebookView& book,
                                const CardShape& card);

// Tokens and sum of codebook/multiscale.h, bit for bit. `scales` ascending, the last is the grid g. All pointers are device
// memory. *invalid (zero before) becomes 1 when a cell has no nearest code: the features were not finite.
void MultiscaleEncode(const float* features,  // [batch][g][g][dim]
                      int64_t batch, const std::vector<int>& scales,
                      const BicubicUp::Taps* taps,  // [scale][g]
                      const CodebookView& book, const CardShape& card,
                      int32_t* tokens,  // [batch][sum of s^2]
                      float* sum,       // [batch][g][g][dim]
                      int* invalid, void* workspace, cudaStream_t stream);

// The sum over the first `scale_count` scales. A token out of range counts as zeros and sets *invalid.
void MultiscaleDecode(const int32_t* tokens,  // [batch][sum of s^2 over the first scales]
                      int64_t batch, const std::vector<int>& scales, int scale_count,
                      const BicubicUp::Taps* taps, const CodebookView& book,
                      float* sum,  // [batch][g][g][dim]
                      int* invalid, cudaStream_t stream);

}  // namespace tokenflow::cuda
