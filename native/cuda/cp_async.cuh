// Asynchronous copies from global to shared memory, 16 bytes a thread (cp.async, sm_80 and newer; on sm_75 an ordinary
// load and store, correct and slower). WaitAsync covers the calling thread's own copies only: a barrier must follow before
// another thread reads them.
#pragma once
#include "device.cuh"
#ifdef TOKENFLOW_SIMT
#include "ptx.h"
#endif

namespace tokenflow::cuda {

// bytes is 16, or 0 to write zeros without reading `source` (which must be a valid pointer all the same).
DEVICE void CopyAsync16(void* target, const void* source, int bytes) {
#if defined(TOKENFLOW_SIMT)
  simt::CopyAsync16(target, source, bytes);
#elif __CUDA_ARCH__ >= 800
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(bytes));
#else
  uint4 value = make_uint4(0, 0, 0, 0);
  if (bytes) value = *static_cast<const uint4*>(source);
  *static_cast<uint4*>(target) = value;
#endif
}

// Closes a group of the copies issued so far. Every iteration of a ring commits, even with nothing issued, so that the
// count WaitAsync goes by stays right to the end.
DEVICE void CommitAsync() {
#if defined(TOKENFLOW_SIMT)
  simt::CommitAsync();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}

// Waits until at most kGroups of the newest groups are still in flight.
template <int kGroups>
DEVICE void WaitAsync() {
#if defined(TOKENFLOW_SIMT)
  simt::WaitAsync(kGroups);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace tokenflow::cuda
