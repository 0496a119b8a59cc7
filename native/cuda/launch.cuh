// How a kernel is started: with its dynamic shared memory allowed and its launch error turned into an exception.
#pragma once
#include <cstddef>
#include <utility>

#include "device.cuh"
#include "driver.h"

namespace tokenflow::cuda {

constexpr size_t kSharedBytesWithoutAsking = 48 << 10;

template <class... Parameters, class... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
#ifdef TOKENFLOW_SIMT
  const cudaError_t status =
      simt::Enqueue(stream, [=] { simt::Run(grid, block, shared_bytes, [&] { kernel(arguments...); }); });
#else
  cudaError_t status = cudaSuccess;
  if (shared_bytes > kSharedBytesWithoutAsking) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
  }
  if (status == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    status = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  }
#endif
  Check(status, "starting a kernel");
}

template <class T>
HOST_DEVICE constexpr T DivideUp(T value, T by) {
  return (value + by - 1) / by;
}

}  // namespace tokenflow::cuda
