// The dialect every kernel here is written in: CUDA C++ without PTX, compiled by nvcc for the card and by the host
// compiler for the emulation of test/simt (TOKENFLOW_SIMT), which checks each access that goes through the functions
// below. Rules: shared memory is dynamic and touched only through LoadShared and StoreShared (or mma.cuh, cp_async.cuh);
// global accesses of 16 bytes go through Load16 and Store16; PTX lives in mma.cuh and cp_async.cuh alone.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef TOKENFLOW_SIMT
#include "cuda_dialect.h"
#define DEVICE inline
#define HOST_DEVICE inline
#define SHARED_MEMORY(name) unsigned char* const name = ::simt::shared_memory().base()
#else
#include <cuda_runtime.h>
#define DEVICE __device__ __forceinline__
#define HOST_DEVICE __host__ __device__ __forceinline__
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace tokenflow::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

template <class T>
DEVICE T LoadShared(const void* p) {
#ifdef TOKENFLOW_SIMT
  simt::shared_memory().Read(p, sizeof(T), "load");
#endif
  return *static_cast<const T*>(p);
}

template <class T>
DEVICE void StoreShared(void* p, T value) {
#ifdef TOKENFLOW_SIMT
  simt::shared_memory().Write(p, sizeof(T), "store");
#endif
  *static_cast<T*>(p) = value;
}

// 16 bytes of global memory at once; the address must be 16-byte aligned.
DEVICE uint4 Load16(const void* p) {
#ifdef TOKENFLOW_SIMT
  if (reinterpret_cast<uintptr_t>(p) % 16) simt::Die("a misaligned 16-byte load");
#endif
  return *static_cast<const uint4*>(p);
}

DEVICE void Store16(void* p, uint4 value) {
#ifdef TOKENFLOW_SIMT
  if (reinterpret_cast<uintptr_t>(p) % 16) simt::Die("a misaligned 16-byte store");
#endif
  *static_cast<uint4*>(p) = value;
}

}  // namespace tokenflow::cuda
