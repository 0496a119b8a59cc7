// Parallel loops over OpenMP, the runtime that oneDNN brings along. Only the compute thread (queue.h) starts
// them, so there is one team in the process whatever the number of callers.
#pragma once
#include <omp.h>

#include <cstdint>

namespace tokenflow {

// Threads a parallel loop may use: TOKENFLOW_NUM_THREADS, else the processors this process may run on.
int Threads();
void SetThreads(int threads);  // >= 1; 0 restores the default

// body(thread, begin, end) over [0, n) in at most Threads() contiguous chunks, each a multiple of `grain` but
// the last. Which rows share a chunk must never change a result.
template <class Body>
void ParallelRanges(int64_t n, int64_t grain, Body&& body) {
  if (n <= 0) return;
  const int64_t units = (n + grain - 1) / grain;
  const int64_t threads = units < Threads() ? units : Threads();
  if (threads <= 1) return body(0, int64_t{0}, n);
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    const int64_t t = omp_get_thread_num();
    const int64_t begin = units * t / threads * grain;
    const int64_t end = t + 1 == threads ? n : units * (t + 1) / threads * grain;
    if (begin < end) body(static_cast<int>(t), begin, end);
  }
}

// body(index) for index in [0, n), handed out one at a time: for uneven work.
template <class Body>
void ParallelTasks(int64_t n, Body&& body) {
  const int64_t threads = n < Threads() ? n : Threads();
  if (threads <= 1) {
    for (int64_t i = 0; i < n; i++) body(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast <int>(threads))
  for (int64_t i = 0; i < n; i++) body(i);
}

}  // namespace tokenflow
