#include <algorithm>
#include <cmath>
#include <limits>

#include "device_codebook.cuh"
#include "host_bf16.h"

namespace tokenflow::cuda {

namespace {

// The next float that is not below x.
float RoundUp(double x) {
  const auto f = static_cast<float>(x);
  return f < x ? std::nextafterf(f, std::numeric_limits<float>::infinity()) : f;
}

int64_t Multiple(int64_t value, int64_t of) {
  return (value + of - 1) / of * of;
}

}  // namespace

HostCodebook LayOut(const PackedCodes& packed) {
  HostCodebook host;
  CodebookView& view = host.view;
  view = {};
  view.part_count = packed.part_count;
  view.metric = packed.metric;
  view.count = packed.codes;
  view.padded = Multiple(packed.codes, kTileCodes);
  view.dim = packed.dim;
  view.stride = static_cast<int>(Multiple(packed.dim, 4));
  view.stride_low = static_cast<int>(Multiple(packed.dim, 8));
  host.codes.assign(view.padded * view.stride, 0.0f);
  host.codes_low.assign(view.padded * view.stride_low, 0);
  double largest_code = 0, largest_residual = 0;
  for (int64_t j = 0; j < packed.codes; j++) {
    if (std::isinf(packed.part_norms[j])) continue;  // never chosen: stays zeros
    double squares = 0, residual_squares = 0;
    for (int k = 0; k < packed.dim; k++) {
      const float c = packed.rows[j * packed.dim + k];
      const uint16_t low = RoundToBf16(c);
      const double residual = static_cast<double>(c) - FromBf16(low);
      host.codes[j * view.stride + k] = c;
      host.codes_low[j * view.stride_low + k] = low;
      squares += static_cast<double>(c) * c;
      residual_squares += residual * residual;
    }
    largest_code = std::max(largest_code, std::sqrt(squares));
    largest_residual = std::max(largest_residual, std::sqrt(residual_squares));
  }
  view.largest_code = RoundUp(largest_code * (1 + 1e-9));
  view.largest_residual = RoundUp(largest_residual * (1 + 1e-9));
  return host;
}

std::vector<float> LayOutNorms(const PackedCodes& packed, const float* weights, int64_t padded,
                               float* largest) {
  const AlignedVector<float> norms = NormsFor(packed, weights);
  std::vector<float> result(padded, std::numeric_limits<float>::infinity());
  std::copy_n(norms.begin(), packed.codes, result.begin());
  *largest = 0;
  for (const float n : result) {
    if (std::isfinite(n)) *largest = std::max(*largest, std::fabs(n));
  }
  return result;
}

}  // namespace tokenflow::cuda
