// The instructions behind native/cuda/mma.cuh and cp_async.cuh, under the names those files give them.
#pragma once
#include "cuda_dialect.h"

namespace simt {

// cp.async.cg 16: the target holds nothing usable until the issuing thread's wait_group.
void CopyAsync16(void* target, const void* source, int bytes);
void CommitAsync();
void WaitAsync(int groups_in_flight);

// ldmatrix .x4: lane l gives the address of row l%8 of matrix l/8. Without trans, lane l receives elements (l/4, 2(l%4)) and
// the next; with it, (2(l%4), l/4) and the row below.
void LoadMatrix4(uint32_t* r, const void* row, bool transposed);

// D(16x8) += A(16x16) B(16x8), bf16 in, fp32 accumulators. With g = lane/4, t = lane%4:
// a: (g,2t) (g+8,2t) (g,2t+8) (g+8,2t+8), each with the next k; b: (2t,g) (2t+8,g), each with the next k;
// c: (g,2t) (g,2t+1) (g+8,2t) (g+8,2t+1).
void MmaBf16(float* c, const uint32_t* a, const uint32_t* b);

// One accumulation step of the emulated tensor core: acc + sum of n products.
float Accumulate(float acc, const float* products, int n);

}  // namespace simt
