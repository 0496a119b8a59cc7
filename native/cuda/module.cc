// The entry point of tokenflow_cuda.so (runtime/cuda_library.h): is there a card that computes, and its backend.
//
// A device counts as available after a smoke test: memory is had, a kernel runs, its result is right. A driver without a
// device, a driver too old for the runtime linked in here, and an architecture without code in here are told apart, because
// what to do about each differs.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "backend.h"
#include "elementwise.cuh"
#include "runtime/cuda_library.h"

namespace tokenflow::cuda {

namespace {

constexpr int kOldestArch = 75;
constexpr int kPixels = 64;

// Frees device memory when it goes out of scope.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) { status_ = cudaMalloc(&data_, bytes); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    if (status_ == cudaSuccess) cudaFree(data_);
  }
  cudaError_t status() const { return status_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  cudaError_t status_;
};

// Pixels to float and back on the current device. `detail` receives what went wrong.
CudaReason SmokeTest(char* detail, size_t detail_bytes) {
  uint8_t pixels[kPixels * 3], back[kPixels * 3] = {};
  for (int i = 0; i < kPixels * 3; i++) pixels[i] = static_cast<uint8_t>(i * 37 + 5);
  cudaError_t status;
  {
    const DeviceMemory x(sizeof pixels), y(sizeof pixels * sizeof(float)), z(sizeof pixels);
    status = std::max({x.status(), y.status(), z.status()});
    if (status == cudaErrorMemoryAllocation) return CudaReason::kOutOfMemory;
    if (status == cudaSuccess)
      status = cudaMemcpy(x.as<void>(), pixels, sizeof pixels, cudaMemcpyHostToDevice);
    if (status == cudaSuccess) {
      try {
        PixelsToFloat(x.as<const uint8_t>(), kPixels * 3, y.as<float>(), nullptr);
        FloatToPixels(y.as<const float>(), kPixels * 3, z.as<uint8_t>(), nullptr);
      } catch (const Error& error) {
        std::snprintf(detail, detail_bytes, "%s", error.what());
        return CudaReason::kSmokeTestFailed;
      }
      status = cudaMemcpy(back, z.as<void>(), sizeof back, cudaMemcpyDeviceToHost);  // waits for the kernels
    }
  }
  if (status == cudaErrorNoKernelImageForDevice) return CudaReason::kUnsupportedArch;
  if (status != cudaSuccess) {
    std::snprintf(detail, detail_bytes, "%s", cudaGetErrorString(status));
    return CudaReason::kSmokeTestFailed;
  }
  for (int i = 0; i < kPixels * 3; i++) {
    // 127.5 v + 128 truncated gives each value back: half a step of slack lies between the two rules.
    if (back[i] == pixels[i]) continue;
    std::snprintf(detail, detail_bytes, "a kernel gave %d where %d was due", back[i], pixels[i]);
    return CudaReason::kSmokeTestFailed;
  }
  return CudaReason::kAvailable;
}

CudaReason ReasonOf(cudaError_t status) {
  switch (status) {
    case cudaErrorInsufficientDriver: {
      // The runtime says this of an old driver and of none at all; the driver's version is 0 when there is none.
      int version = 0;
      cudaDriverGetVersion(&version);
      return version == 0 ? CudaReason::kNoDriver : CudaReason::kDriverTooOld;
    }
    case cudaErrorNoDevice:
      return CudaReason::kNoDevice;
    case cudaErrorMemoryAllocation:
      return CudaReason::kOutOfMemory;
    default:
      return CudaReason::kNoDriver;
  }
}

void Probe(CudaProbe* probe) {
  *probe = CudaProbe{};
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    probe->reason = ReasonOf(status);
    std::snprintf(probe->detail, sizeof probe->detail, "%s", cudaGetErrorString(status));
    return;
  }
  probe->device_count = std::min<int>(count, CudaProbe::kMaxDevices);
  probe->reason = CudaReason::kNoDevice;
  int previous = 0;
  cudaGetDevice(&previous);
  for (int i = 0; i < probe->device_count; i++) {
    CudaDevice& device = probe->devices[i];
    cudaDeviceProp properties;
    const cudaError_t known = cudaGetDeviceProperties(&properties, i);
    if (known != cudaSuccess) {
      device.reason = CudaReason::kSmokeTestFailed;
      std::snprintf(probe->detail, sizeof probe->detail, "%s", cudaGetErrorString(known));
    } else {
      std::snprintf(device.name, sizeof device.name, "%s", properties.name);
      device.arch = properties.major * 10 + properties.minor;
      device.multiprocessors = properties.multiProcessorCount;
      device.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
      if (device.arch < kOldestArch) {
        device.reason = CudaReason::kUnsupportedArch;
      } else {
        const cudaError_t set = cudaSetDevice(i);
        device.reason = set == cudaSuccess                 ? SmokeTest(probe->detail, sizeof probe->detail)
                        : set == cudaErrorMemoryAllocation ? CudaReason::kOutOfMemory
                                                           : CudaReason::kSmokeTestFailed;
      }
    }
    // The first device that works decides; until then the latest reason stands.
    if (probe->reason != CudaReason::kAvailable) probe->reason = device.reason;
  }
  cudaSetDevice(previous);
}

Backend* Open(int32_t device, char* detail, int32_t detail_bytes) {
  static std::mutex mutex;
  static Backend* backends[CudaProbe::kMaxDevices] = {};  // never destroyed: the driver may be gone before
  const std::lock_guard<std::mutex> lock(mutex);
  if (device < 0 || device >= CudaProbe::kMaxDevices) return nullptr;
  if (backends[device] == nullptr) {
    try {
      backends[device] = OpenBackend(device).release();
    } catch (const std::exception& error) {
      std::snprintf(detail, static_cast<size_t>(detail_bytes), "%s", error.what());
    }
  }
  return backends[device];
}

}  // namespace

}  // namespace tokenflow::cuda

extern "C" __attribute__((visibility("default"))) const tokenflow::CudaLibrary* tokenflow_cuda_4() {
  static const tokenflow::CudaLibrary library = {tokenflow::kCudaAbi, tokenflow::cuda::Probe,
                                                 tokenflow::cuda::Open};
  return &library;
}
