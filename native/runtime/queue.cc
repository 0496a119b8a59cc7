#include "runtime/queue.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

namespace tokenflow {

struct ComputeQueue::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> jobs;
  bool busy = false;  // a job runs, on whichever thread
  std::atomic<int> pending{0};

  // The end of a job.
  void Release() {
    pending--;
    std::lock_guard<std::mutex> lock(mutex);
    busy = false;
    if (!jobs.empty()) wake.notify_one();
  }
};

ComputeQueue& ComputeQueue::Cpu() {
  static ComputeQueue* queue = new ComputeQueue();  // leaked on purpose: see the header
  return *queue;
}

ComputeQueue& ComputeQueue::Of(const std::string& device) {
  if (device == "cpu") return Cpu();
  static auto* mutex = new std::mutex();
  static auto* queues = new std::map<std::string, ComputeQueue*>();
  const std::lock_guard<std::mutex> lock(*mutex);
  ComputeQueue*& queue = (*queues)[device];
  if (queue == nullptr) queue = new ComputeQueue();
  return *queue;
}

ComputeQueue::ComputeQueue() : state_(std::make_shared<State>()) {
  std::thread([state = state_] {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock<std::mutex> lock(state->mutex);
        state->wake.wait(lock, [&] { return !state->busy && !state->jobs.empty(); });
        state->busy = true;
        job = std::move(state->jobs.front());
        state->jobs.pop_front();
      }
      job();
      state->Release();
    }
  }).detach();
}

void ComputeQueue::Post(std::function<void()> job) {
  state_->pending++;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->jobs.push_back(std::move(job));
  }
  state_->wake.notify_one();
}

bool ComputeQueue::TryRun(const std::function<void()>& job) {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    if (state_->busy || !state_->jobs.empty()) return false;
    state_->busy = true;
    state_->pending++;
  }
  struct Releaser {
    State* state;
    ~Releaser() { state->Release(); }
  } releaser{state_.get()};
  job();
  return true;
}

void ComputeQueue::Run(const std::function<void()>& job) {
  if (TryRun(job)) return;
  std::mutex mutex;
  std::condition_variable wake;
  bool done = false;
  std::exception_ptr failure;
  Post([&] {
    try {
      job();
    } catch (...) {
      failure = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(mutex);
    done = true;
    wake.notify_one();
  });
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, [&] { return done; });
  if (failure) std::rethrow_exception(failure);
}

int ComputeQueue::Pending() const {
  return state_->pending.load();
}

}  // namespace tokenflow
