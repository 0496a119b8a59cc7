// The compute queue: jobs run one at a time, first in, first out, for every JavaScript environment of the process, on a
// thread per device. libuv's pool stays free for files and image decoding, and there is one team of threads
// (parallel.h). A caller that would wait for its job anyway runs it itself when nothing is before it: to wake the
// compute thread and be woken by it takes longer than a small job.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>

namespace tokenflow {

// Shared by a job and whoever may cancel it; long kernels ask between tiles or batches.
using CancelFlag = std::atomic<bool>;

class ComputeQueue {
 public:
  // The queue of a device, by name: 'cpu', 'cuda:0'. Started on first use, never torn down: the process may exit while a job
  // runs.
  static ComputeQueue& Of(const std::string& device);
  static ComputeQueue& Cpu();

  void Post(std::function<void()> job);

  // A job in two parts: `start` hands its work to the device and returns at once; what it returns, unless that is empty, waits
  // for it, on the same thread, once the next such job has been started too if one waits.
  void PostInTwo(std::function<std::function<void()>()> start);

  // Runs `job` in its turn and waits for it, on the calling thread when its turn is now; what it throws is thrown here.
  void Run(const std::function<void()>& job);

  // Runs `job` on the calling thread if its turn is now; otherwise does nothing and returns false.
  bool TryRun(const std::function<void()>& job);

  int Pending() const;

 private:
  ComputeQueue();
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace tokenflow
