#include "cpu/kernels.h"

#include "runtime/cpu_features.h"

namespace tokenflow {

const Kernels& ActiveKernels() {
  static const Kernels kernels = [] {
    Kernels table = kScalarKernels;
    if (ActiveSimdLevel() == SimdLevel::kAvx2) table = kAvx2Kernels;
    if (ActiveSimdLevel() == SimdLevel::kAvx512) table = kAvx512Kernels;
    if (UseAvx512Bf16()) table.matmul_bf16 = MatmulBf16Avx512;
    return table;
  }();
  return kernels;
}

}  // namespace tokenflow
