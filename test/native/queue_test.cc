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

  // A caller runs its job itself exactly when nothing is before it.
  std::atomic<bool> begun{false}, go{false};
  bool ran = false;
  queue.Post([&] {
    begun = true;
    while (!go) std::this_thread::yield();
  });
  while (!begun) std::this_thread::yield();
  Expect(!queue.TryRun([&] { ran = true; }) && !ran, "a job under way is not overtaken");
  go = true;
  queue.Run([] {});
  std::thread::id where;
  while (!queue.TryRun([&] { where = std::this_thread::get_id(); })) std::this_thread::yield();
  Expect(where == std::this_thread::get_id(), "with nothing before it a job runs on its caller");
  Expect(queue.Pending() == 0, "nothing is left");

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
