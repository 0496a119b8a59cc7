// The team of threads behind every parallel loop: each index once, whatever the threads, nested or side by side;
// failures reach the caller and leave the team usable.
#include "runtime/parallel.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "expect.h"

using namespace tokenflow;

namespace {

// Every index of [0, n) exactly once.
void EachOnce(int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> seen(n), inside(Threads());
  ParallelRanges(n, grain, [&](int thread, int64_t begin, int64_t end) {
    Expect(thread >= 0 && thread < Threads(), "a thread's number is in range");
    Expect(begin % grain == 0 && begin < end && end <= n, "a chunk begins at a multiple of the grain");
    Expect(inside[thread]++ == 0, "a thread's number is in one call at a time");
    for (int64_t i = begin; i < end; i++) seen[i]++;
    inside[thread]--;
  });
  ParallelTasks(n, [&](int64_t i) { seen[i] += 10; });
  for (const auto& count : seen) Expect(count == 11, "each index is visited once");
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 3, 8, 17}) {
    SetThreads(threads);
    for (int64_t n : {0, 1, 2, 5, 16, 100, 1000}) {
      for (int64_t grain : {1, 3, 64}) EachOnce(n, grain);
    }
  }

  // Many short loops, with and without time to fall asleep in between, in teams of changing size.
  int64_t total = 0;
  for (int round = 0; round < 20000; round++) {
    SetThreads(1 + round % 5);
    std::atomic<int64_t> sum{0};
    ParallelRanges(7, 1, [&](int, int64_t begin, int64_t end) { sum += end - begin; });
    total += sum;
    if (round % 2000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  Expect(total == 7 * 20000, "no loop loses or repeats work");

  SetThreads(4);
  for (int round = 0; round < 200; round++) {
    bool caught = false;
    try {
      ParallelTasks(50, [](int64_t i) {
        if (i % 7 == 3) throw std::runtime_error("seven");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    Expect(caught, "a failure reaches the caller");
    EachOnce(20, 1);
  }

  std::atomic<int> inner{0};
  ParallelTasks(8,
                [&](int64_t) { ParallelRanges(5, 1, [&](int, int64_t a, int64_t b) { inner += b - a; }); });
  Expect(inner == 40, "a loop inside a loop runs");

  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; caller++) {
    callers.emplace_back([] {
      for (int round = 0; round < 300; round++) EachOnce(40, 1);
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("parallel_test: all well\n");
  return 0;
}
