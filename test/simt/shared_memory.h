// Shared memory of the running block, with a shadow that knows who wrote and read each word of 4 bytes, and when.
//
// "When" is the block's phase, which a barrier advances, and the warp's phase, which __syncwarp advances. Two accesses of
// different threads, one of them a write, are a race unless a barrier of the block (or, inside one warp, a __syncwarp)
// lies between. A write by cp.async happens at its wait_group, in the thread that waits; until then any touch is a fault.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "simt.h"

namespace simt {

class SharedMemory {
 public:
  // A new block: poisons the memory and forgets the shadow.
  void Begin(size_t bytes);

  unsigned char* base() { return base_; }
  size_t bytes() const { return bytes_; }

  void Read(const void* p, size_t n, const char* what) {
    if (options().watch_shared_memory) CheckRead(p, n, what);
  }
  void Write(void* p, size_t n, const char* what) {
    if (options().watch_shared_memory) CheckWrite(p, n, what);
  }
  void BeginAsync(void* p, size_t n);
  void EndAsync(void* p, size_t n);

  // Bank conflicts of plain loads and stores: the i-th access of each lane of a warp since the last barrier belongs to the
  // i-th instruction, as long as all 32 lanes made the same number of them (else they are not counted).
  void CountConflicts();

 private:
  static constexpr size_t kUnit = 4;
  static constexpr int16_t kMany = -1;
  struct Shadow {
    uint32_t write_phase = 0, write_warp_phase = 0;
    uint32_t read_phase = 0, read_warp_phase = 0;
    int16_t writer = 0;
    int16_t reader = 0;       // kMany: several threads of reader_warp
    int16_t reader_warp = 0;  // kMany: several warps
    bool pending = false;
  };

  void CheckRead(const void* p, size_t n, const char* what);
  void CheckWrite(void* p, size_t n, const char* what);
  size_t Unit(const void* p, size_t n, const char* what) const;
  bool After(uint32_t phase, uint32_t warp_phase, int thread) const;
  void MarkWrite(Shadow& s, const char* what);
  void Trace(const void* p, size_t n);

  std::vector<unsigned char> storage_;
  unsigned char* base_ = nullptr;
  size_t bytes_ = 0;
  std::vector<Shadow> shadow_;
  uint32_t first_phase_ = 0;  // of this block: older marks are another block's
  struct Access {
    uint32_t offset, bytes;
  };
  std::vector<std::vector<Access>> traces_;  // by thread
};

extern SharedMemory& the_shared_memory;
inline SharedMemory& shared_memory() {
  return the_shared_memory;
}

}  // namespace simt
