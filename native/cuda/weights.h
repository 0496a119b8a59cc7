// The packed weights of a model on a card, and the memory its programs run in.
#pragma once
#include <memory>
#include <vector>

#include "card.h"
#include "runtime/packed_weights.h"

namespace tokenflow::cuda {

struct DeviceArray {
  DeviceMemory memory;
  template <class T = float>
  const T* data() const {
    return memory.as<const T>();
  }
};

// A copy of host memory on the current card.
DeviceArray Upload(const void* data, size_t bytes);
template <class T>
DeviceArray Upload(const std::vector<T>& values) {
  return Upload(values.data(), values.size() * sizeof(T));
}

class CudaWeightStore : public PackedWeights {
 public:
  explicit CudaWeightStore(std::shared_ptr<Card> card) : card_(std::move(card)) {}

  Card& card() const { return *card_; }

  // For the program that runs now: on a card there is one at a time. `generation` changes whenever memory moves, and with it
  // every address that a captured graph has noted down.
  struct Workspace {
    unsigned char* device;
    unsigned char* pinned;
    int generation;
  };
  // Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY, saying what batch would fit.
  Workspace Reserve(size_t device_bytes, size_t pinned_bytes, int64_t batch);

 private:
  std::shared_ptr<Card> card_;
  DeviceMemory device_;
  PinnedMemory pinned_;
  int generation_ = 0;
};

}  // namespace tokenflow::cuda
