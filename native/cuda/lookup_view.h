// A codebook, and a batch of queries, as they lie in device memory. Plain pointers: the kernels take these by value.
#pragma once
#include <cstdint>

#include "codebook/score.h"

namespace tokenflow::cuda {

// Codes are padded to a multiple of kTileCodes; a padding code, and one that can never be chosen, is zeros with norm +inf.
constexpr int kTileCodes = 128;  // codes of one tile of the lookup kernels
constexpr int kGroupCodes = 64;  // codes behind one minimum of a group

struct CodebookView {
  const float* codes;         // [padded][stride]; zeros from dim on
  const float* norms;         // [padded], for this call's weights
  const uint16_t* codes_low;  // [padded][stride_low] bf16, rounded to nearest; zeros from dim on
  const PartSpan* parts;      // [part_count], with this call's weights
  int part_count;
  Metric metric;
  int64_t count;   // codes
  int64_t padded;  // multiple of kTileCodes
  int dim;
  int stride;      // multiple of 4: rows start on 16 bytes
  int stride_low;  // multiple of 8

  // Bounds over the codes that can be chosen, rounded up: the largest norm of a code, of its bf16 rounding residual, and
  // the largest |n_j|. They carry the screen's proof (screen.cu).
  float largest_code, largest_residual, largest_norm;
};

struct QueryView {
  int64_t count;
  const float* x;   // [count][dim] as handed in
  float* seen;      // [count][stride] as compared: normalised where a part says so
  float* y;         // [count][stride] of the definition; zeros when the query has no nearest code
  uint16_t* y_low;  // [count][stride_low] bf16, or null when no screen runs
  float* margin;    // [count] or null: |coarse - exact| of any code is at most this
  uint8_t* scored;  // [count]; 0: no nearest code
  uint64_t* keys;   // [count] or null: set to kNoKey, for NearestKeys
};

constexpr uint64_t kNoKey = ~uint64_t{0};

}  // namespace tokenflow::cuda
