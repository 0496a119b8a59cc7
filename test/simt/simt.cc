#include "simt.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "shared_memory.h"

namespace simt {

Machine& the_machine = *new Machine;
Options the_options;

Counters& counters() {
  static Counters instance;
  return instance;
}

void ResetCounters() {
  counters() = Counters{};
}

const char* OrderName(Order order) {
  switch (order) {
    case Order::kForward:
      return "forward";
    case Order::kReverse:
      return "reverse";
    case Order::kRandom:
      return "random";
    case Order::kLockstep:
      return "lockstep";
  }
  return "?";
}

void Die(const std::string& what) {
  const Machine& m = machine();
  if (!m.running) throw Fault(what);
  const dim3 b = m.block_index;
  throw Fault(what + " (block " + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
              std::to_string(b.z) + ", thread " + std::to_string(m.current) + ")");
}

void BlockBarrier() {
  Thread& thread = machine().threads[machine().current];
  thread.wait = Wait::kBlockBarrier;
  thread.fiber.Park();
}

void WarpArrive(const void* value, size_t bytes, unsigned mask, WarpOp op) {
  Machine& m = machine();
  if (!(mask >> Lane() & 1)) Die("a warp operation whose mask leaves out its caller");
  Thread& thread = m.threads[m.current];
  std::memcpy(thread.published, value, bytes);
  thread.op = op;
  thread.mask = mask;
  thread.wait = Wait::kWarp;
  thread.fiber.Park();
}

const unsigned char* PublishedBy(int lane) {
  Machine& m = machine();
  return &m.snapshots[static_cast<size_t>((m.current & ~31) + lane) * kPublishBytes];
}

namespace {

// The body of every fiber.
void ThreadMain() {
  Machine& m = machine();
  Thread& self = m.threads[m.current];
  try {
    m.body();
    if (!self.open.empty()) Die("cp.async that was never committed");
    for (const auto& group : self.groups) {
      if (!group.empty()) Die("cp.async still in flight when its thread ends");
    }
  } catch (const std::exception& error) {
    if (m.fault.empty()) m.fault = error.what();
  }
  self.wait = Wait::kDone;
  self.fiber.Finish();
}

class BlockScheduler {
 public:
  explicit BlockScheduler(std::mt19937& random) : m_(machine()), random_(random) {
    const int warps = static_cast<int>(m_.threads.size() + 31) / 32;
    for (int w = 0; w < warps; w++) warps_.push_back(w);
    if (order() == Order::kReverse) std::reverse(warps_.begin(), warps_.end());
  }

  void RunBlock() {
    for (;;) {
      RunToBarrier();
      if (options().watch_shared_memory) shared_memory().CountConflicts();
      bool waiting = false, done = false;
      for (const Thread& t : m_.threads) {
        if (t.wait == Wait::kWarp) Stuck();
        waiting |= t.wait == Wait::kBlockBarrier;
        done |= t.wait == Wait::kDone;
      }
      if (!waiting) return;
      if (done) Die("__syncthreads reached by only some of the threads: others have ended");
      counters().barriers++;
      m_.phase++;
      for (Thread& t : m_.threads) t.wait = Wait::kRunning;
    }
  }

 private:
  static Order order() { return options().order; }
  int First(int warp) const { return warp * 32; }
  int End(int warp) const { return std::min<int>(static_cast<int>(m_.threads.size()), warp * 32 + 32); }

  void RunToBarrier() {
    if (order() == Order::kRandom) std::shuffle(warps_.begin(), warps_.end(), random_);
    if (order() == Order::kLockstep) {
      for (bool progress = true; progress;) {
        progress = false;
        for (int warp : warps_) progress |= Step(warp);
      }
    } else {
      for (int warp : warps_) {
        while (Step(warp)) {
        }
      }
    }
  }

  // Runs the warp's runnable lanes once and releases its complete warp operations; false when nothing moved.
  bool Step(int warp) {
    bool progress = false;
    const int first = First(warp), end = End(warp);
    for (int k = first; k < end; k++) {
      const int i = order() == Order::kReverse ? end - 1 - (k - first) : k;
      if (m_.threads[i].wait != Wait::kRunning) continue;
      progress = true;
      m_.current = i;
      m_.threads[i].fiber.Resume();
      if (!m_.fault.empty()) throw Fault(m_.fault);
    }
    for (int i = first; i < end; i++) {
      if (m_.threads[i].wait == Wait::kWarp && Complete(i, first, end)) {
        Release(i, first, end);
        progress = true;
      }
    }
    return progress;
  }

  bool Complete(int leader, int first, int end) {
    const Thread& a = m_.threads[leader];
    for (int i = first; i < end; i++) {
      if (!(a.mask >> (i - first) & 1)) continue;
      const Thread& b = m_.threads[i];
      if (b.wait != Wait::kWarp) return false;
      if (b.op != a.op || b.mask != a.mask) {
        m_.current = i;
        Die("two lanes of one warp wait in different warp operations");
      }
    }
    return true;
  }

  void Release(int leader, int first, int end) {
    const unsigned mask = m_.threads[leader].mask;
    const bool sync = m_.threads[leader].op == WarpOp::kSyncwarp;
    for (int i = first; i < end; i++) {
      if (!(mask >> (i - first) & 1)) continue;
      std::memcpy(&m_.snapshots[static_cast<size_t>(i) * kPublishBytes], m_.threads[i].published,
                  kPublishBytes);
      m_.threads[i].wait = Wait::kRunning;
    }
    // Of the warp operations only __syncwarp orders shared memory; a shuffle or a vote does not.
    if (sync) m_.warp_phase[first >> 5]++;
  }

  [[noreturn]] void Stuck() {
    for (size_t i = 0; i < m_.threads.size(); i++) {
      if (m_.threads[i].wait == Wait::kWarp) {
        m_.current = static_cast<int>(i);
        break;
      }
    }
    Die("divergent warp operation: other lanes of its mask have ended or wait at a barrier");
  }

  Machine& m_;
  std::mt19937& random_;
  std::vector<int> warps_;
};

}  // namespace

void Run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body) {
  Machine& m = machine();
  const size_t n = static_cast<size_t>(block.x) * block.y * block.z;
  if (n == 0 || n > 1024) Die("a block of " + std::to_string(n) + " threads; 1 to 1024 are allowed");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) Die("an empty grid");
  if (grid.y > 65535 || grid.z > 65535) Die("grid.y and grid.z end at 65535");
  m.grid = grid;
  m.block = block;
  m.body = std::move(body);
  m.fault.clear();
  if (m.threads.size() != n) m.threads = std::vector<Thread>(n);
  const size_t warps = (n + 31) / 32;
  m.snapshots.assign(warps * 32 * kPublishBytes, 0);
  m.warp_phase.assign(warps, 1);
  std::mt19937 random(options().seed);

  struct Running {
    Running() { machine().running = true; }
    ~Running() { machine().running = false; }
  } running;
  for (unsigned z = 0; z < grid.z; z++) {
    for (unsigned y = 0; y < grid.y; y++) {
      for (unsigned x = 0; x < grid.x; x++) {
        m.block_index = dim3(x, y, z);
        m.phase++;
        shared_memory().Begin(shared_bytes);
        for (size_t i = 0; i < n; i++) {
          Thread& t = m.threads[i];
          t.index = dim3(i % block.x, i / block.x % block.y, i / (static_cast<size_t>(block.x) * block.y));
          t.wait = Wait::kRunning;
          t.open.clear();
          t.groups.clear();
          t.fiber.Reset(ThreadMain);
        }
        BlockScheduler(random).RunBlock();
      }
    }
  }
}

}  // namespace simt
