#include "weights.h"

#include <algorithm>

namespace tokenflow::cuda {

namespace {

std::string Megabytes(size_t bytes) {
  return std::to_string((bytes + (size_t{1} << 20) - 1) >> 20) + " MiB";
}

}  // namespace

DeviceArray Upload(const void* data, size_t bytes) {
  DeviceArray array{DeviceMemory(bytes, "allocating weights")};
  Check(cudaMemcpy(array.memory.as<void>(), data, bytes, cudaMemcpyHostToDevice), "uploading weights");
  return array;
}

CudaWeightStore::Workspace CudaWeightStore::Reserve(size_t device_bytes, size_t pinned_bytes, int64_t batch) {
  if (device_bytes > device_.bytes()) {
    device_ = DeviceMemory();  // the old one goes first: both need not fit
    generation_++;
    try {
      device_ = DeviceMemory(device_bytes, "allocating activations");
    } catch (const DeviceError& error) {
      if (error.status != cudaErrorMemoryAllocation) throw;
      const Card::Space space = card_->Memory();
      // Activations grow with the batch and little else does. Half a hundredth is left to the driver.
      const double share = 0.995 * static_cast<double>(space.free) / static_cast<double>(device_bytes);
      const auto fits = std::min(batch - 1, static_cast<int64_t>(share * static_cast<double>(batch)));
      throw Error("ERR_TOKENFLOW_OUT_OF_MEMORY",
                  "A batch of " + std::to_string(batch) + " needs " + Megabytes(device_bytes) +
                      " on the device beside " + Megabytes(static_cast<size_t>(Bytes())) +
                      " of weights, but of its " + Megabytes(space.total) + " only " + Megabytes(space.free) +
                      " are free. " +
                      (fits >= 1 ? "A batch of " + std::to_string(fits) + " fits: set batchSize to that"
                                 : std::string("Not even one image fits: free memory, or use the CPU")));
    }
  }
  if (pinned_bytes > pinned_.bytes()) {
    pinned_ = PinnedMemory();
    generation_++;
    pinned_ = PinnedMemory(pinned_bytes, "allocating pinned memory for inputs and outputs");
  }
  return {device_.as(), pinned_.as(), generation_};
}

}  // namespace tokenflow::cuda
