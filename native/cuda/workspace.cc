#include "workspace.h"

#include <algorithm>
#include <cstring>

namespace tokenflow::cuda {

namespace {

constexpr size_t kStagingBytes = size_t{8} << 20;  // a piece: long enough to reach the bus's rate
constexpr size_t kCallBytes = size_t{256} << 20;   // a larger call gains nothing by more
constexpr size_t kLine = 256;

}  // namespace

unsigned char* Staging::Take(size_t bytes) {
  if (pinned_.bytes() == 0) pinned_ = PinnedMemory(kStagingBytes, "allocating pinned memory");
  if (used_ + bytes > kStagingBytes) Finish();
  unsigned char* piece = pinned_.as() + used_;
  used_ += (bytes + kLine - 1) / kLine * kLine;
  return piece;
}

void Staging::Upload(void* to, const void* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t size = std::min(kStagingBytes, bytes - at);
    unsigned char* piece = Take(size);
    std::memcpy(piece, static_cast<const char*>(from) + at, size);
    Check(cudaMemcpyAsync(static_cast<char*>(to) + at, piece, size, cudaMemcpyHostToDevice, stream_.get()),
          "uploading an array");
  }
}

void Staging::Download(void* to, const void* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t size = std::min(kStagingBytes, bytes - at);
    unsigned char* piece = Take(size);
    Check(cudaMemcpyAsync(piece, static_cast<const char*>(from) + at, size, cudaMemcpyDeviceToHost,
                          stream_.get()),
          "downloading an array");
    landings_.push_back({static_cast<char*>(to) + at, piece, size});
  }
}

void Staging::Finish() {
  stream_.Wait();
  for (const Landing& landing : landings_) std::memcpy(landing.to, landing.from, landing.bytes);
  landings_.clear();
  used_ = 0;
}

void Staging::Drop() {
  cudaStreamSynchronize(stream_.get());  // what was started reads and writes the memory of the call
  landings_.clear();
  used_ = 0;
}

size_t Workspace::Budget(Layer layer) const {
  return std::max(memory_[static_cast<int>(layer)].bytes(), std::min(kCallBytes, card_->Memory().free / 2));
}

void* Workspace::Reserve(Layer layer, size_t bytes, const std::string& purpose) {
  DeviceMemory& memory = memory_[static_cast<int>(layer)];
  if (bytes > memory.bytes()) {
    memory = DeviceMemory();  // the old one goes first: both need not fit
    memory = Allocate(bytes, purpose);
  }
  return memory.as<void>();
}

DeviceMemory Workspace::Allocate(size_t bytes, const std::string& purpose) {
  try {
    return DeviceMemory(bytes, "allocating memory");
  } catch (const DeviceError& error) {
    if (error.status != cudaErrorMemoryAllocation) throw;
    const Card::Space space = card_->Memory();
    throw Error(error.code,
                "Device 'cuda:" + std::to_string(card_->index()) + "' has no memory for " + purpose + ": " +
                    std::to_string(bytes) + " bytes are needed, " + std::to_string(space.free) + " of " +
                    std::to_string(space.total) +
                    " are free. Dispose of device buffers and codebooks that are not needed, or use the CPU");
  }
}

}  // namespace tokenflow::cuda
