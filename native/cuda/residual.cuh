// The residual quantiser between its lookups; see residual.cu.
#pragma once
#include "gather.cuh"
#include "launch.cuh"

namespace tokenflow::cuda {

struct StageArgs {
  CodeRows codes;
  const int32_t* indices;  // of row i: indices[i * groups + group]
  int groups, group;
  int64_t rows;
  bool first;       // the sum starts here
  float* sum;       // [rows][dim] or null: += code
  float* residual;  // [rows][dim] or null: -= code
  int32_t* tokens;  // where an index goes as well, or null: tokens[i * tokens_stride + tokens_at]
  int tokens_stride, tokens_at;
  unsigned long long* bad;  // *bad = the first position (i groups + group, from `base`) out of range
  int64_t base;
};

void AddStage(const StageArgs& args, cudaStream_t stream);

// errors[i] = |x_i - sum_i|^2, summed in double.
void ResidualErrors(const float* x, const float* sum,  // [rows][dim]
                    int64_t rows, int dim,
                    float* errors,  // [rows]
                    cudaStream_t stream);

}  // namespace tokenflow::cuda
