// A packed codebook laid out for the lookup kernels, on the host, ready to be copied to the card.
#pragma once
#include <vector>

#include "codebook/pack.h"
#include "lookup_view.h"

namespace tokenflow::cuda {

// Does not depend on the weights of a call.
struct HostCodebook {
  std::vector<float> codes;         // [padded][stride]
  std::vector<uint16_t> codes_low;  // [padded][stride_low]
  CodebookView view;                // everything but the pointers, the norms and largest_norm
};

HostCodebook LayOut(const PackedCodes& packed);

// n_j for these weights, +inf where there is no code; `largest` becomes the largest |n_j| of a code that can be chosen.
std::vector<float> LayOutNorms(const PackedCodes& packed, const float* weights, int64_t padded,
                               float* largest);

}  // namespace tokenflow::cuda
