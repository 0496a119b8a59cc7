// Rows moved and widened; see gather.cu.
#pragma once
#include "launch.cuh"

namespace tokenflow::cuda {

// Rows of a codebook, as it is compared.
struct CodeRows {
  const float* rows;
  int64_t count;
  int stride;  // elements from row to row
  int dim;
};

// to[i][begin + e] = row indices[i][group] of the codes. An index out of range leaves its row as it is, and *first becomes
// its position (i groups + group, if that is smaller than what is there).
void GatherRows(const CodeRows& codes, const int32_t* indices,  // [count][groups]
                int64_t count, int groups, int group, int64_t base,
                float* to,  // [count][to_stride]
                int to_stride, int begin, unsigned long long* first, cudaStream_t stream);

// to[i] = columns [begin, begin + dim) of row i.
void SliceColumns(const float* from,  // [count][stride]
                  int64_t count, int stride, int begin, int dim,
                  float* to,  // [count][dim]
                  cudaStream_t stream);

// to[i * stride + at] = from[i].
void PutColumn(const int32_t* from, int64_t count, int32_t* to, int stride, int at, cudaStream_t stream);

// to = from, from 16-bit floats.
void WidenHalf(const uint16_t* from, int64_t count, float* to, cudaStream_t stream);
void WidenBFloat16(const uint16_t* from, int64_t count, float* to, cudaStream_t stream);

}  // namespace tokenflow::cuda
