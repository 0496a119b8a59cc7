#include "weights.h"

#include <algorithm>
#include <utility>

namespace tokenflow::cuda {

namespace {

std::string Megabytes(size_t bytes) {
  return std::to_string((bytes + (size_t{1} << 20) - 1) >> 20) + " MiB";
}

}  // namespace

DeviceArray Upload(const void* data, size_t bytes) {
  DeviceArray array{DeviceMemory(bytes, "allocating weights")};
  Check(cudaMemcpy(array.memory.as<void>(), data, bytes, cudaMemcpyHostToDevice), "uploading weights");
  // From pageable memory it may return before the last of the bytes are there, and the streams that read them do not wait
  // for the default one.
  Check(cudaStreamSynchronize(nullptr), "uploading weights");
  return array;
}

void RunSlot::Land() {
  if (const auto now = std::exchange(land, nullptr)) now();
}

void RunSlot::Reserve(size_t bytes, int* moves) {
  if (bytes <= device.bytes() && bytes <= pinned.bytes()) return;
  generation = ++*moves;
  device = DeviceMemory();  // the old goes first: both need not fit
  pinned = PinnedMemory();
  device = DeviceMemory(bytes, "allocating inputs and outputs");
  pinned = PinnedMemory(bytes, "allocating pinned memory for inputs and outputs");
}

CudaWeightStore::Workspace CudaWeightStore::Reserve(size_t arena_bytes, size_t slot_bytes, int64_t batch) {
  if (arena_bytes > arena_.bytes()) {
    LandAll();
    generation_ = ++moves_;
    arena_ = DeviceMemory();
    try {
      arena_ = DeviceMemory(arena_bytes, "allocating activations");
    } catch (const DeviceError& error) {
      if (error.status != cudaErrorMemoryAllocation) throw;
      for (auto& slot : slots_) slot.reset();
      ThrowOutOfMemory(arena_bytes + slot_bytes, batch);
    }
  }
  int free = 0;
  while (free < slots_that_fit_ && slots_[free] != nullptr && slots_[free]->land != nullptr) free++;
  if (free == slots_that_fit_) LandAll(), free = 0;
  for (;;) {
    try {
      if (slots_[free] == nullptr) slots_[free] = std::make_unique<RunSlot>();
      slots_[free]->Reserve(slot_bytes, &moves_);
      return {arena_.as(), generation_, free};
    } catch (const DeviceError& error) {
      if (error.status != cudaErrorMemoryAllocation) throw;
      slots_[free].reset();
      if (free == 0 && slots_[1] == nullptr) {
        arena_ = DeviceMemory();
        ThrowOutOfMemory(arena_bytes + slot_bytes, batch);
      }
      // No room for a run beside another: from now on one at a time.
      LandAll();
      slots_[1].reset();
      slots_that_fit_ = 1;
      free = 0;
    }
  }
}

void CudaWeightStore::LandAll() {
  for (const auto& slot : slots_) {
    if (slot != nullptr) slot->Land();
  }
}

void CudaWeightStore::ThrowOutOfMemory(size_t bytes, int64_t batch) const {
  const Card::Space space = card_->Memory();
  // Activations grow with the batch and little else does. Half a hundredth is left to the driver.
  const double share = 0.995 * static_cast<double>(space.free) / static_cast<double>(bytes);
  const auto fits = std::min(batch - 1, static_cast<int64_t>(share * static_cast<double>(batch)));
  throw Error("ERR_TOKENFLOW_OUT_OF_MEMORY",
              "A batch of " + std::to_string(batch) + " needs " + Megabytes(bytes) +
                  " on the device beside " + Megabytes(static_cast<size_t>(Bytes())) +
                  " of weights, but of its " + Megabytes(space.total) + " only " + Megabytes(space.free) +
                  " are free. " +
                  (fits >= 1 ? "A batch of " + std::to_string(fits) + " fits: set batchSize to that"
                             : std::string("Not even one image fits: free memory, or use the CPU")));
}

}  // namespace tokenflow::cuda
