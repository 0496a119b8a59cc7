// The CUDA runtime as the host code here uses it: owners instead of pairs of calls, exceptions instead of codes. Nothing
// else of it is used, so that test/simt/fake_runtime.h can stand in for it where there is no card.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "runtime/error.h"

#ifdef TOKENFLOW_SIMT
#include "fake_runtime.h"
#else
#include <cuda_runtime.h>
#endif

namespace tokenflow::cuda {

// A call that the driver refused. The code is ERR_TOKENFLOW_OUT_OF_MEMORY when it wanted memory, otherwise
// ERR_TOKENFLOW_INTERNAL.
struct DeviceError : Error {
  DeviceError(cudaError_t status, const std::string& doing)
      : Error(status == cudaErrorMemoryAllocation ? "ERR_TOKENFLOW_OUT_OF_MEMORY" : "ERR_TOKENFLOW_INTERNAL",
              "The CUDA driver failed while " + doing + ": " + cudaGetErrorString(status)),
        status(status) {}
  cudaError_t status;
};

inline void Check(cudaError_t status, const char* doing) {
  if (status != cudaSuccess) throw DeviceError(status, doing);
}

// Whether the device computes on after an error. After any other the context is lost for the life of the process.
inline bool IsRecoverable(cudaError_t status) {
  switch (status) {
    case cudaErrorInvalidValue:
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNotSupported:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
      return true;
    default:
      return false;
  }
}

// Makes a device the calling thread's for a while.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    Check(cudaGetDevice(&previous_), "asking for the current device");
    Check(cudaSetDevice(device), "choosing a device");
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaSetDevice(previous_); }

 private:
  int previous_;
};

// Memory of the current device, or pinned memory of the host: what asynchronous copies start from and end in. What Free
// returns does not matter: either the memory is gone or the context is.
template <cudaError_t (*Allocate)(void**, size_t), cudaError_t (*Free)(void*)>
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, const char* purpose) : bytes_(bytes) {
    Check(Allocate(&data_, bytes == 0 ? 1 : bytes), purpose);
  }
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) Free(data_);
  }

  size_t bytes() const { return bytes_; }
  template <class T = unsigned char>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

inline cudaError_t AllocateOnDevice(void** p, size_t bytes) {
  return cudaMalloc(p, bytes);
}
inline cudaError_t AllocatePinned(void** p, size_t bytes) {
  return cudaMallocHost(p, bytes);
}
using DeviceMemory = Memory<AllocateOnDevice, cudaFree>;
using PinnedMemory = Memory<AllocatePinned, cudaFreeHost>;

// A point in a stream's work that others, or the host, wait for.
class Event {
 public:
  Event() { Check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }

  cudaEvent_t get() const { return event_; }
  // For the work in front of it where it was last recorded.
  void Wait() const { Check(cudaEventSynchronize(event_), "computing"); }

 private:
  cudaEvent_t event_ = nullptr;
};

// Work in order, beside whatever else the process has on the device.
class Stream {
 public:
  explicit Stream(int device) {
    const OnDevice current(device);
    Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }
  void Wait() const { Check(cudaStreamSynchronize(stream_), "computing"); }
  void Record(const Event& event) const {
    Check(cudaEventRecord(event.get(), stream_), "recording an event");
  }
  // What is put into the stream from now on waits for the event; the host does not.
  void WaitFor(const Event& event) const {
    Check(cudaStreamWaitEvent(stream_, event.get(), 0), "ordering two streams");
  }

 private:
  cudaStream_t stream_ = nullptr;
};

// Launches noted down once and started together, which spares the host's part of each.
class LaunchGraph {
 public:
  // Captures what `body` puts into the stream; nothing runs.
  template <class Body>
  LaunchGraph(const Stream& stream, Body&& body) {
    Check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capturing a graph");
    cudaGraph_t graph = nullptr;
    try {
      body();
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);  // fails after a failure inside
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    Check(cudaStreamEndCapture(stream.get(), &graph), "capturing a graph");
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    Check(status, "preparing a graph");
  }
  LaunchGraph(const LaunchGraph&) = delete;
  LaunchGraph& operator=(const LaunchGraph&) = delete;
  ~LaunchGraph() { cudaGraphExecDestroy(executable_); }

  void Launch(const Stream& stream) const {
    Check(cudaGraphLaunch(executable_, stream.get()), "starting a graph");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace tokenflow::cuda
