#include "card.h"

namespace tokenflow::cuda {

namespace {

CardShape ShapeOf(int index) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, index), "asking for the properties of a device");
  return {properties.major * 10 + properties.minor, properties.multiProcessorCount};
}

}  // namespace

// A stream belongs to the device that is current when it is made.
Card::Card(int index)
    : index_(index), shape_(ShapeOf(index)), stream_(index), uploads_(index), downloads_(index) {}

Card::Space Card::Memory() const {
  Space space;
  Check(cudaMemGetInfo(&space.free, &space.total), "asking for free memory");
  return space;
}

std::string Card::LostReason() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return lost_;
}

void Card::MarkLost(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (lost_.empty()) lost_ = reason;
}

void Card::ThrowIfLost() const {
  const std::string reason = LostReason();
  if (reason.empty()) return;
  throw Error("ERR_TOKENFLOW_BACKEND_UNAVAILABLE",
              "Device 'cuda:" + std::to_string(index_) + "' was lost: " + reason +
                  ". It cannot be used again in this process; the CPU can");
}

}  // namespace tokenflow::cuda
