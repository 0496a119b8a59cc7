// Parallel loops. There is one team of threads in the process whatever the number of callers: the compute thread
// (queue.h) has it most of the time, and a loop that is started inside another, or beside one, runs on its caller
// alone.
//
// The team is the process's own, not OpenMP's: a thread that waits looks for some tens of microseconds, offers its
// processor to others for half a millisecond, and sleeps. OpenMP's spins for milliseconds, and on a machine that is busy
// otherwise it takes the very processor that the thread it waits for needs.
#pragma once
#include <atomic>
#include <cstdint>

namespace tokenflow {

// Threads a parallel loop may use: TOKENFLOW_NUM_THREADS, else the processors this process may run on.
int Threads();
void SetThreads(int threads);  // >= 1; 0 restores the default

// While it lives, Threads() is 1 on the thread that made it, and its loops are its own.
class Alone {
 public:
  Alone();
  ~Alone();
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  const bool before_;
};

// task(context, thread) once for each thread in [0, threads), on as many threads as can be had. Throws what the first
// failing task threw, once all have ended.
void RunOnTeam(int threads, void (*task)(void* context, int thread), void* context);

// body(thread) once for each thread in [0, threads).
template <class Body>
void OnThreads(int threads, Body body) {
  if (threads <= 1) return body(0);
  RunOnTeam(
      threads, [](void* context, int thread) { (*static_cast<Body*>(context))(thread); }, &body);
}

// body(thread, begin, end) over [0, n) in contiguous chunks, each a multiple of `grain` but the last: some for each
// of at most Threads() threads, handed out one at a time, so that a thread whose processor is taken away for a while
// does not keep the others waiting. `thread` names what only one call at a time may use. Which rows share a chunk must
// never change a result. A loop to which a new chunk costs something takes one per thread.
template <class Body>
void ParallelRanges(int64_t n, int64_t grain, Body&& body, int64_t chunks_per_thread = 4) {
  if (n <= 0) return;
  const int64_t units = (n + grain - 1) / grain;
  const int64_t available = Threads();  // read once: another thread may change it meanwhile
  const int64_t threads = units < available ? units : available;
  const int64_t most = threads == 1 ? 1 : threads * chunks_per_thread;
  const int64_t chunks = units < most ? units : most;
  std::atomic<int64_t> next{0};
  auto take = [&](int thread) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      const int64_t end = i + 1 == chunks ? n : units * (i + 1) / chunks * grain;
      body(thread, units * i / chunks * grain, end);
    }
  };
  OnThreads(static_cast<int>(threads), take);
}

// body(index) for index in [0, n), handed out one at a time: for uneven work.
template <class Body>
void ParallelTasks(int64_t n, Body&& body) {
  if (n <= 0) return;
  const int64_t available = Threads();
  const int64_t threads = n < available ? n : available;
  std::atomic<int64_t> next{0};
  auto take = [&](int) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(i);
  };
  OnThreads(static_cast<int>(threads), take);
}

}  // namespace tokenflow
