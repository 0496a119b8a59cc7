// The part of the CUDA runtime that the host code of native/cuda calls, over memory of this process. It stands in for
// <cuda_runtime.h> in the tests and is stricter than a card:
//
//   * work of a stream is only noted down; it runs when somebody waits for the stream, or for an event behind it, and of other
//     streams runs what that waits for. A result read without waiting, or a staging buffer refilled too early, is therefore
//     always noticed. With `wander`, streams also run ahead by themselves as far as events let them, in random order
//   * asynchronous copies demand pinned host memory
//   * a stream must be used on its own device, and nothing may be allocated or waited for while it is being captured
//   * memory can be bounded, and any call made to fail; an error that loses the context stays
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDisableTiming = 2;

struct CUstream_st;
struct CUgraph_st;
struct CUgraphExec_st;
struct CUevent_st;
using cudaStream_t = CUstream_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
using cudaEvent_t = CUevent_st*;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};

namespace simt {

struct FakeDevice {
  std::string name;
  int major = 9, minor = 0;
  int multiprocessors = 132;
  size_t memory_bytes = size_t{80} << 30;
  cudaError_t set = cudaSuccess, malloc = cudaSuccess, copy_back = cudaSuccess;
  bool wrong_result = false;
};

struct FakeRuntime {
  cudaError_t count_error = cudaSuccess;
  int driver_version = 13000;
  std::vector<FakeDevice> devices;
  // Asked at every call by its name ("cudaMalloc", "launch"); what it returns is the call's result.
  std::function<cudaError_t(const char*)> fault;
  cudaError_t lost = cudaSuccess;  // the error that stays
  int allocations = 0;             // alive
  int launches = 0, graph_launches = 0;
  unsigned wander = 0;  // seed; 0: not
  // Told what was "issued" or has "run": "upload", "compute", "download"; and what the host "waited" for.
  std::function<void(const char* stage, const char* what)> observe;
};
FakeRuntime& fake_runtime();

// As in CUDA, each thread has a current device.
int& CurrentDevice();

// Notes a kernel down; at once without a stream.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace simt

const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocHost(void** p, size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop);
