// The CUDA-on-CPU machine of the tests: a `__global__` body is compiled by the host compiler and run here.
//
// A CUDA thread is a fiber, a warp is 32 of them, blocks run one after another. Between two block barriers each warp runs
// as far as it can before the next one starts, so a missing barrier meets the largest possible skew. What the machine
// refuses, each with a Fault that names block and thread:
//
//   * a barrier, or a warp operation, that only some of its threads reach
//   * shared memory: outside the allocation, misaligned, read before anything was written, or touched by two threads
//     with no barrier between (shared_memory.h)
//   * cp.async: target used before wait_group, groups never committed, copies in flight at exit (ptx.h)
//   * global memory: anything outside a DeviceBuffer, which ends at an unmapped page (device_buffer.h)
//
// What it cannot show: races in global memory, the memory model between warps beyond barriers, the rounding inside
// tensor cores, register pressure, speed.
#pragma once
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace simt {

struct Fault : std::logic_error {
  using std::logic_error::logic_error;
};

// Who goes first. kRandom shuffles the warps anew after every barrier; kLockstep lets the warps advance together, one
// warp operation at a time.
enum class Order { kForward, kReverse, kRandom, kLockstep };
const char* OrderName(Order order);

// How the tensor core of the emulation adds. kNearest: fp32 round to nearest, k ascending. kTruncate: the products and the
// accumulator are aligned to the largest exponent and cut to 24 bits, the worst that published measurements of the
// hardware have shown; a bound on its error must survive this one too.
enum class TensorCore { kNearest, kTruncate };

struct Options {
  Order order = Order::kForward;
  unsigned seed = 1;
  TensorCore tensor_core = TensorCore::kNearest;
  // Off for whole models, whose kernels have been watched by themselves: several times as fast.
  bool watch_shared_memory = true;
};
extern Options the_options;
inline Options& options() {
  return the_options;
}

// Counted since the last ResetCounters().
struct Counters {
  long barriers = 0;
  long mma = 0;
  long async_copies = 0;
  long ldmatrix = 0;
  long bank_conflicts = 0;  // extra passes of ldmatrix and of 16-byte shared loads and stores
};
Counters& counters();
void ResetCounters();

enum class Wait { kRunning, kBlockBarrier, kWarp, kDone };
enum class WarpOp { kSyncwarp, kShuffle, kVote, kLdmatrix, kMma };

struct AsyncCopy {
  void* target;
  const void* source;
  int bytes;  // the rest of the 16 is filled with zeros
};

constexpr int kPublishBytes = 32;

struct Thread {
  Fiber fiber;
  dim3 index;
  Wait wait = Wait::kDone;
  WarpOp op = WarpOp::kSyncwarp;
  unsigned mask = 0;  // of the warp operation it waits in
  alignas(16) unsigned char published[kPublishBytes];
  std::vector<AsyncCopy> open;                 // issued, not yet committed
  std::vector<std::vector<AsyncCopy>> groups;  // committed, oldest first
};

// The one running block. `current` is the linear index of the running thread.
struct Machine {
  dim3 grid, block, block_index;
  std::vector<Thread> threads;
  int current = 0;
  bool running = false;
  std::function<void()> body;
  std::vector<unsigned char> snapshots;  // [warps * 32][kPublishBytes]: what the released lanes had published
  std::vector<uint32_t> warp_phase;      // +1 at each __syncwarp of the warp
  uint32_t phase = 1;                    // +1 at each block barrier and block start, over all launches
  std::string fault;                     // the first one; set on a fiber, thrown by the scheduler
};
extern Machine& the_machine;  // never destroyed: the process may exit while it runs
inline Machine& machine() {
  return the_machine;
}

inline int Lane() {
  return machine().current & 31;
}
inline int Warp() {
  return machine().current >> 5;
}

[[noreturn]] void Die(const std::string& what);

// Runs the body for every thread of every block. Throws Fault.
void Run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body);

void BlockBarrier();

// Parks the running thread until every lane of `mask` has arrived at the same operation with the same mask.
void WarpArrive(const void* value, size_t bytes, unsigned mask, WarpOp op);
const unsigned char* PublishedBy(int lane);

template <class T>
T Exchange(const T& value, int source_lane, unsigned mask, WarpOp op) {
  static_assert(sizeof(T) <= kPublishBytes, "too large to publish");
  WarpArrive(&value, sizeof(T), mask, op);
  if (source_lane < 0 || source_lane > 31) return value;
  if (!(mask >> source_lane & 1))
    Die("a shuffle reads lane " + std::to_string(source_lane) + ", which its mask leaves out");
  T result;
  __builtin_memcpy(&result, PublishedBy(source_lane), sizeof(T));
  return result;
}

}  // namespace simt
