#include "fake_runtime.h"

#include <cstdio>
#include <cstring>

#include "device_buffer.h"

namespace simt {

FakeRuntime& fake_runtime() {
  static FakeRuntime instance;
  return instance;
}

namespace {
const FakeDevice& Current() {
  return fake_runtime().devices.at(fake_runtime().current);
}
}  // namespace

}  // namespace simt

using simt::fake_runtime;

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "a CUDA error";
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_runtime().driver_version;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(fake_runtime().devices.size());
  if (fake_runtime().count_error != cudaSuccess) return fake_runtime().count_error;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = fake_runtime().current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  const cudaError_t status = fake_runtime().devices.at(device).set;
  if (status == cudaSuccess) fake_runtime().current = device;
  return status;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const simt::FakeDevice& fake = fake_runtime().devices.at(device);
  std::snprintf(properties->name, sizeof properties->name, "%s", fake.name.c_str());
  properties->major = fake.major;
  properties->minor = fake.minor;
  properties->multiProcessorCount = 132;
  properties->totalGlobalMem = size_t{80} << 30;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (simt::Current().malloc != cudaSuccess) return simt::Current().malloc;
  *p = simt::AllocateGuarded(bytes);
  fake_runtime().allocations++;
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  simt::FreeGuarded(p);
  fake_runtime().allocations--;
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind == cudaMemcpyDeviceToHost && simt::Current().copy_back != cudaSuccess)
    return simt::Current().copy_back;
  std::memcpy(to, from, bytes);
  if (kind == cudaMemcpyDeviceToHost && simt::Current().wrong_result) static_cast<unsigned char*>(to)[7] ^= 1;
  return cudaSuccess;
}
