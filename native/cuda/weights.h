// The packed weights of a model on a card, and the memory its programs run in.
#pragma once
#include <functional>
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

// What one run has to itself while the next is under way: the inputs and outputs, on the card and mirrored in pinned memory.
struct RunSlot {
  DeviceMemory device;
  PinnedMemory pinned;
  int generation = 0;  // another whenever memory moves
  Event uploaded, computed, downloaded;
  std::function<void()> land;  // of the run that has the slot: waits for it and takes its results

  void Land();
  // Throws DeviceError. `moves` counts how often memory was moved.
  void Reserve(size_t bytes, int* moves);
};

class CudaWeightStore : public PackedWeights {
 public:
  explicit CudaWeightStore(std::shared_ptr<Card> card) : card_(std::move(card)) {}

  Card& card() const { return *card_; }

  // For the run that starts now. The arena is shared by all, because kernels of one run follow those of another; with
  // `generation`, or the slot's own, every address changes that a captured graph has noted down.
  struct Workspace {
    unsigned char* arena;
    int generation;
    int slot;  // free until its `land` is set
  };
  static constexpr int kSlots = 2;
  // Lands runs whose memory has to move. Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY, saying what batch would fit.
  Workspace Reserve(size_t arena_bytes, size_t slot_bytes, int64_t batch);
  RunSlot& slot(int i) { return *slots_[i]; }

 private:
  void LandAll();
  [[noreturn]] void ThrowOutOfMemory(size_t bytes, int64_t batch) const;

  std::shared_ptr<Card> card_;
  DeviceMemory arena_;
  int generation_ = 0;  // of the arena
  int moves_ = 0;
  std::unique_ptr<RunSlot> slots_[kSlots];
  int slots_that_fit_ = kSlots;
};

}  // namespace tokenflow::cuda
