// The compute queue: one thread per device runs jobs first in, first out, for every JavaScript environment of
// the process. libuv's pool stays free for files and image decoding, and there is one team of threads (parallel.h).
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

  // Posts `job` and waits for it; what it throws is thrown here.
  void Run(const std::function<void()>& job);

  int Pending() const;

 private:
  ComputeQueue();
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace tokenflow
