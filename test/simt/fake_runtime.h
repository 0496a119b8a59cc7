// The little of the CUDA runtime that native/cuda/module.cu calls, answering as a test tells it to.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorIllegalAddress = 700,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};

namespace simt {

struct FakeDevice {
  std::string name;
  int major = 9, minor = 0;
  cudaError_t set = cudaSuccess, malloc = cudaSuccess, copy_back = cudaSuccess;
  bool wrong_result = false;
};

struct FakeRuntime {
  cudaError_t count_error = cudaSuccess;
  int driver_version = 13000;
  std::vector<FakeDevice> devices;
  int current = 0;
  int allocations = 0;  // alive
};
FakeRuntime& fake_runtime();

}  // namespace simt

const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
