// The compute queue: jobs of several callers run one at a time in the order of each, failures come back, and what a job
// wrote is there when Run returns.
#include "runtime/queue.h"

#include <atomic>
#include <stdexcept>
#include <thread>

#include "expect.h"

using namespace tokenflow;

int main() {
  ComputeQueue& queue = ComputeQueue::Cpu();
  int64_t unguarded = 0;  // one compute thread: no job sees another's half-done work
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; caller++) {
    callers.emplace_back([&] {
      int mine = 0;
      for (int round = 0; round < 2000; round++) {
        queue.Run([&] {
          unguarded++;
          Expect(mine == round, "a caller's jobs run in its order");
          mine++;
        });
        Expect(mine == round + 1, "what a job wrote is there when Run returns");
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  queue.Run([&] { Expect(unguarded == 4 * 2000, "every job runs once"); });

  std::atomic<int> posted{0};
  for (int i = 0; i < 1000; i++) queue.Post([&] { posted++; });
  queue.Run([&] { Expect(posted == 1000, "what was posted before runs before"); });

  bool caught = false;
  try {
    queue.Run([] { throw std::runtime_error("seven"); });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  Expect(caught, "a failure comes back to its caller");
  std::printf("queue_test: all well\n");
  return 0;
}
